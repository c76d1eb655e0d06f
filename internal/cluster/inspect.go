package cluster

import (
	"context"
	"time"
)

// Server is one server of the database that keeps the sequence, as operators see it.
type Server struct {
	URL     string
	Err     error // why it does not answer; nil: it does, and the fields below are known
	Version string
	Leader  bool  // it is the leader
	Led     bool  // it knows a leader
	Bytes   int64 // size of its file
	Used    int64 // bytes of the file that are in use; 0 if not known
	Quota   int64 // size at which it refuses all changes; 0 if not known
	Alarms  []string
}

// Inspector answers the questions of operators about the cluster. Its methods are safe for concurrent use.
type Inspector interface {
	// Left returns for how long this node may answer requests if its lease is not renewed. It is 0 if the node may not.
	Left() time.Duration
	// Known returns the last Head that this node has heard of. It costs no request.
	Known() Head
	// Servers asks each server of the settings for its state, in the order of the settings. members is how many servers vote, or
	// 0 if that is not known.
	Servers(ctx context.Context) (list []Server, members int)
}
