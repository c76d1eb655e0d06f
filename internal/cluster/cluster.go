// Package cluster describes how the stores of several nodes agree on one sequence of changes.
//
// Each node has all records in a file of its own, its view. A change reads the view and collects what
// it writes in a Set. Engine.Commit adds the Set to the sequence if no other Set was added since the
// state that the change has read; otherwise the change runs again on the newer state. All nodes apply
// the Sets in the order of the sequence, so all views have the same contents.
package cluster

import (
	"context"
	"errors"
	"time"
)

// Head is the position of a Set in the sequence. A later Set has a larger Head. 0 is the position before
// the first Set.
type Head int64

// Write is a record that a Set stores or deletes.
type Write struct {
	Bucket string
	Key    []byte
	Value  []byte // nil: the record is deleted
}

// Set is what one commit of a store writes.
type Set struct {
	Node  string // name of the node that made it
	Nonce uint64 // random; the same in all attempts to commit the Set
	// Secure means that other nodes may not answer from a state before the Set once the change is
	// acknowledged, such as the revocation of a key. They acknowledge the Set, see Members.
	Secure bool
	Writes []Write // at most one for each record
}

// The bounds of a Set.
const (
	MaxWrites = 4000    // most Writes
	MaxBytes  = 4 << 20 // most bytes of buckets, keys and values together
)

// The errors of an Engine.
var (
	// ErrMoved means that another Set was committed since the state on which a Set is based, so that the
	// Set was not committed.
	ErrMoved = errors.New("another node has made a change meanwhile")
	// ErrUnsure means that nobody could be asked whether the Set was committed. Commit with the same Set
	// and base finds out.
	ErrUnsure = errors.New("the cluster cannot be reached, so it is unknown whether the change was made")
	// ErrGap means that the engine no longer has the Sets that follow a Head. The view must be loaded.
	ErrGap = errors.New("the changes since the state of this node are no longer kept")
)

// Engine keeps the sequence. Its methods are safe for concurrent use. They return an error of the
// context once it ends.
type Engine interface {
	// Turn waits while it is the turn of another node to commit, at most some tens of milliseconds.
	// This only prevents that nodes wait long for each other; it does not replace the check of Commit.
	Turn(ctx context.Context)
	// Commit adds a Set after the Set at base, and returns its Head. It returns ErrMoved if base is not the
	// last Head, and ErrUnsure if nobody could say within ctx whether the Set was added. A repeated Commit of a
	// Set that was added returns its Head again, as long as this node has committed no other.
	Commit(ctx context.Context, base Head, set *Set) (Head, error)
	// Barrier returns a Head that is not before that of any Set whose Commit has returned when Barrier is called, on any node.
	Barrier(ctx context.Context) (Head, error)
	// Follow calls apply for each Set after a Head, in order and each once, from one goroutine, until ctx ends or apply returns an error,
	// and returns that error. It survives lost connections. It returns ErrGap if the Sets after the Head are no longer kept.
	Follow(ctx context.Context, after Head, apply func(Head, *Set) error) error
	// Load calls put for each record of one state, in ascending order of bucket and key, and returns the Head of
	// that state. The memory of a Write is valid only during the call.
	Load(ctx context.Context, put func(Write) error) (Head, error)
	// Close releases what the Engine holds. Methods that run end with an error.
	Close() error
}

// Node is what a running node tells the others about itself.
type Node struct {
	Name    string    `json:"name"`
	Host    string    `json:"host"`    // name of its machine
	Version string    `json:"version"` // version of the program
	Format  int       `json:"format"`  // format of the records that it writes
	Started time.Time `json:"started"`
	Acked   Head      `json:"acked"` // the last Secure Set that its view has
	Running bool      `json:"running"`
	Config  string    `json:"config,omitempty"` // SHA-256 of the settings that should be the same on all nodes, in hex digits
}

// Effect is how far a Secure Set has come.
type Effect struct {
	Head  Head // position of the Set
	Nodes int  // running nodes that have applied it
	Of    int  // running nodes, without those that ended while the change waited for them
	Took  time.Duration
}

// Acknowledger tells nodes which Secure Sets the others have applied. Its methods are safe for concurrent use.
type Acknowledger interface {
	// Acknowledge tells the other nodes that the view has reached a Head.
	Acknowledge(ctx context.Context, head Head) error
	// Await waits until each running node has acknowledged a Head, except this one.
	Await(ctx context.Context, head Head) (Effect, error)
}

// MaxTimeError is how far the times of two nodes that answer requests can be apart, see Local.
const MaxTimeError = 200 * time.Millisecond

// Local is what Members need of the node itself. Its methods are safe for concurrent use, and return quickly but for Reach.
//
// The nodes have one time, which has nothing to do with wall clocks: it goes on with the clocks that
// also run while a machine is suspended. A node that joins takes the time from the nodes that run. If none runs, the
// time goes on with the node's own.
type Local interface {
	// Reach waits until the view has reached a Head.
	Reach(ctx context.Context, head Head) error
	// Time returns the time of the cluster as this node has it.
	Time() time.Time
	// Shift moves it.
	Shift(d time.Duration)
	// Joined is called before the node may answer requests, each time that it has taken over the time.
	Joined()
}

// Members is about the nodes that run now. Its methods are safe for concurrent use.
//
// A node may answer requests while it has a lease. It renews the lease only once its view has
// reached the state of the sequence. A change that is Secure waits for the acknowledgement of each
// node with a lease, or for the end of the lease, after which that node has stopped to answer.
type Members interface {
	// Join registers this node under a new lease. It returns an error that says what to do if another
	// process has registered the name, after it has waited for the end of the lease of an earlier run, or
	// if the node was removed from the cluster.
	Join(ctx context.Context, self Node) error
	// Keep renews the lease until ctx ends, and keeps the time of the node with those of the others. If the
	// lease has ended, Keep joins again. It returns an error if the node may no longer be part of the cluster.
	Keep(ctx context.Context, local Local) error
	// Serving returns nil while the node may answer requests, and otherwise an error that says why not. It is fast and allocates nothing
	// while the node may answer.
	Serving() error
	Acknowledger
	// Nodes returns the nodes, those that do not run now as well, by name.
	Nodes(ctx context.Context) ([]Node, error)
	// Remove ends the membership of a node. It returns once the node can no longer answer requests.
	Remove(ctx context.Context, name string) error
	// First reports whether this node should do what one node does for all, such as sending webhooks: it may answer
	// requests, and no running node has a name that sorts before its own. Two nodes may believe so for as long as a lease.
	First() bool
	// Leave ends the lease, so that nobody waits for this node.
	Leave(ctx context.Context) error
}
