package etcd

import "time"

// permit is a lease of this node: until when it may answer requests.
//
// Only CLOCK_BOOTTIME counts the time in which the machine was suspended. But Go reads it by a system call, which takes
// from 0.1 to 5 microseconds, the longest in virtual machines; each request would pay that. Package time reads the monotonic clock and the
// wall clock without one. The wall clock goes on during a suspension as well, so the two differ afterwards. If they differ, the boot
// clock is asked. So a node could answer too long only if the wall clock is set back, within one lease, by just the time that
// the machine was suspended. After a suspension, however short, a renewal is needed also because the service time must be corrected.
type permit struct {
	sent  time.Duration // boot time before it was asked for
	ends  time.Duration // boot time
	since time.Time     // when it was asked for; zero: only the boot clock is used
	lasts time.Duration // from since
	slack time.Duration // by which the wall clock may lag behind without the boot clock being asked
}

// newPermit returns the permit for a lease that was asked for at a boot time, and at since, which was read before.
func newPermit(sent time.Duration, since time.Time, lease time.Duration) *permit {
	p := &permit{sent: sent, ends: sent + lease - lease/6, since: since, slack: lease / 60}
	p.lasts = lease - lease/6 - p.slack
	return p
}

// holds reports whether the permit holds now.
func (p *permit) holds(boot func() time.Duration) bool {
	if p.since.IsZero() {
		return boot() < p.ends
	}
	now := time.Now()
	return p.holdsAfter(now.Sub(p.since), time.Duration(now.UnixNano()-p.since.UnixNano()), boot)
}

// holdsAfter reports whether the permit holds, after the time that has passed by the monotonic clock and by the wall clock.
func (p *permit) holdsAfter(monotonic, wall time.Duration, boot func() time.Duration) bool {
	if max(monotonic, wall) >= p.lasts {
		return false
	}
	switch {
	case wall < monotonic-p.slack:
		return boot() < p.ends
	case wall > monotonic+suspended:
		return boot()-p.sent <= monotonic+suspended
	}
	return true
}

// suspended is the shortest suspension of the machine that is noticed.
const suspended = 20 * time.Millisecond
