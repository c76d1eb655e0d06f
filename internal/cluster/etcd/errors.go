package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"latchkey/internal/cluster"
)

// refusal is an error of etcd that another attempt does not mend, and the sentence about what to do.
type refusal struct {
	err      error
	sentence string
}

// refusals are the errors that are not retried.
var refusals = []refusal{
	{rpctypes.ErrNoSpace, "etcd has no space left, so it refuses all changes: compact its history, defragment each server, " +
		"disarm the alarm by `etcdctl alarm disarm`, and raise --quota-backend-bytes if its records need more"},
	{rpctypes.ErrTooManyOps, "etcd refuses changes of many records: start each of its servers with --max-txn-ops=8192"},
	{rpctypes.ErrRequestTooLarge, "etcd refuses large changes: start each of its servers with --max-request-bytes=8388608"},
	{rpctypes.ErrPermissionDenied, "etcd refuses access to the keys below lk/: give its user, which is the common name of the certificate in " +
		"cluster.cert_file, a role that may read and write that prefix"},
	{rpctypes.ErrUserEmpty, "etcd has users turned on and does not know this node: set cluster.cert_file to a certificate with the name of a user of etcd"},
	{rpctypes.ErrUserNotFound, "etcd has no user with the common name of the certificate in cluster.cert_file: add it by `etcdctl user add`"},
	{rpctypes.ErrCorrupt, "etcd has found that its data is damaged: see its log, and replace the damaged server"},
}

// explain returns the error for one that another attempt does not mend, with the sentence about it, and nil for others.
func explain(err error) error {
	if errors.Is(err, cluster.ErrGap) || errors.As(err, new(finalError)) {
		return err
	}
	err = rpctypes.Error(err)
	for _, r := range refusals {
		if errors.Is(err, r.err) {
			return fmt.Errorf("%s (%w)", r.sentence, err)
		}
	}
	text := err.Error()
	if strings.Contains(text, "message larger than max") {
		return fmt.Errorf("etcd refuses large changes: start each of its servers with --max-request-bytes=8388608 (%w)", err)
	}
	if code(err) == codes.InvalidArgument || code(err) == codes.Unimplemented {
		return fmt.Errorf("etcd refuses a request: %w", err)
	}
	return nil
}

// finalError is an error that the engine has found itself, and that another attempt does not mend.
type finalError struct{ error }

// final returns an error that is not retried.
func final(format string, args ...any) error { return finalError{fmt.Errorf(format, args...)} }

// Unwrap returns the error itself.
func (f finalError) Unwrap() error { return f.error }

// code returns the gRPC code of an error.
func code(err error) codes.Code {
	var of rpctypes.EtcdError
	if errors.As(err, &of) {
		return of.Code()
	}
	return status.Code(err)
}

// unreachable describes why etcd has not answered, in words for an operator.
func unreachable(err error) error {
	switch err = rpctypes.Error(err); {
	case errors.Is(err, rpctypes.ErrNoLeader), errors.Is(err, rpctypes.ErrLeaderChanged):
		return fmt.Errorf("etcd has no leader: more than half of its servers must run and reach each other (%w)", err)
	case errors.Is(err, context.DeadlineExceeded), code(err) == codes.DeadlineExceeded:
		return fmt.Errorf("etcd does not answer in time (%w)", err)
	default:
		return fmt.Errorf("etcd cannot be reached: %w", err)
	}
}

// retry calls f with a context that ends after each, until it succeeds, fails for good, or ctx ends.
// The error is one of ctx then, with the reason of the last attempt.
func (e *Engine) retry(ctx context.Context, each time.Duration, f func(context.Context) error) error {
	ctx, cancel := e.until(ctx)
	defer cancel()
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		attempt, done := context.WithTimeout(ctx, each)
		err := f(attempt)
		done()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ended(ctx, err)
		}
		if refused := explain(err); refused != nil {
			return refused
		}
		if !sleep(ctx, wait) {
			return ended(ctx, err)
		}
	}
}

// ended returns the error of a context that has ended while requests failed with err.
func ended(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, errClosed) {
		return cause
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	why := unreachable(err)
	if !errors.Is(why, ctx.Err()) {
		why = fmt.Errorf("%w (%w)", why, ctx.Err())
	}
	return why
}

// sleep waits, and reports whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
