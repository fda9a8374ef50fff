// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

// unlimited is the limit of a stream with nothing wrong.
const unlimited = -1

// A quarantine finds the one episode for which an endpoint refuses batches as
// invalid, so that it does not hold up all others behind it forever. After a
// refusal the evidence is sent without episodes; if that is taken, the fault is
// among the episodes, and it is halved down. While the evidence alone is
// refused, no episode is blamed and none is lost.
type quarantine struct {
	// limit is how many episodes the next batch may carry; unlimited is −1.
	limit int
	// suspects is how many of the oldest episodes hold the bad one.
	suspects int
}

// refused notes that a batch with n episodes was refused as invalid.
func (q *quarantine) refused(n int) {
	// Without episodes (n = 0) it is the evidence, and then the refusal before
	// says nothing about the episodes that were with it.
	q.suspects = n
	q.limit = 0
}

// accepted notes that a batch with n episodes was taken. It says whether the
// oldest waiting episode is the bad one.
func (q *quarantine) accepted(n int) (bad bool) {
	switch {
	case q.suspects == 0:
		q.limit = unlimited
	case n == 0 && q.suspects == 1:
		q.suspects, q.limit = 0, unlimited
		return true
	case n == 0:
		q.suspects /= 2
		q.limit = q.suspects
	default:
		// The suspects are gone, so the bad one was in the other half.
		q.suspects, q.limit = 0, unlimited
	}
	return false
}

// wants says whether another batch is needed for waiting episodes at once.
func (q *quarantine) wants(waiting int) bool { return waiting > 0 && q.limit != 0 }
