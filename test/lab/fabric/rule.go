// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	bpf "github.com/plumb-dev/plumb/bpf/fabric"
)

// A Rule breaks what goes from one port to another. What is for the router itself
// (its addresses, the metadata server), and ARP and neighbour discovery with it,
// never crosses the fabric and is not touched.
//
// Of several rules for one packet the worst decides: what one loses silently, none
// answers; of two loss ratios the higher one holds.
type Rule struct {
	// ID names the rule; setting one under an ID that is taken replaces it.
	ID string
	// From and To are names of ports; "" is any.
	From, To string
	// DropLarger loses IP packets longer than so many bytes, all headers from the
	// outermost IP header on counted, whether they have DF or not; 0 loses none.
	// A fragment counts with its own length.
	DropLarger int
	// ICMP answers them as a router does: "fragmentation needed" with DropLarger as
	// next-hop MTU (RFC 1191) or "packet too big" (RFC 8201), from the sender's
	// gateway. Linux does not believe IPv6 below 1280 nor IPv4 below
	// net.ipv4.route.min_pmtu (552) to the letter.
	ICMP bool
	// LossRatio loses packets of any size at random, 0 to 1.
	LossRatio float64
	// DropFragments loses every fragment, the first one included.
	DropFragments bool
	// Cut loses everything.
	Cut bool
	// BitsPerSecond polices, counted on the IP packets' length: what is over the rate
	// is lost, nothing is delayed. 0 does not police. Each rule has one bucket, which
	// the pairs that it holds for share.
	BitsPerSecond int64
	// BurstBytes is how much may pass at once; 0 means what the rate carries in 50
	// ms, and at least 20000 bytes, two jumbo frames.
	BurstBytes int
	// FlapEvery sends packets by the second way, two hops longer, every other so long
	// a time. Nothing is lost. At least one millisecond; 0 does not flap.
	FlapEvery time.Duration
}

const (
	burstTime  = 50 * time.Millisecond
	leastBurst = 20000
	// maxLength is what fits into IPv4's length field (RFC 791).
	maxLength = 65535
)

// check says what about the rule cannot be.
func (r Rule) check() error {
	switch {
	case r.ID == "":
		return fmt.Errorf("rule from %q to %q: it has no ID; name it", r.From, r.To)
	case r.DropLarger < 0 || r.DropLarger > maxLength:
		return fmt.Errorf("rule %s: it drops what is larger than %d bytes; give 1 to %d, or 0 for none", r.ID, r.DropLarger, maxLength)
	case r.ICMP && r.DropLarger == 0:
		return fmt.Errorf("rule %s: it answers by ICMP but has no size; give DropLarger", r.ID)
	case math.IsNaN(r.LossRatio) || r.LossRatio < 0 || r.LossRatio > 1:
		return fmt.Errorf("rule %s: a loss ratio of %v; give 0 to 1", r.ID, r.LossRatio)
	case r.BitsPerSecond < 0:
		return fmt.Errorf("rule %s: a rate of %d bit/s; give a positive one, or 0 for none", r.ID, r.BitsPerSecond)
	case r.BurstBytes < 0 || r.BurstBytes > math.MaxInt32:
		return fmt.Errorf("rule %s: a burst of %d bytes; give 1 to %d, or 0 for the default", r.ID, r.BurstBytes, math.MaxInt32)
	case r.FlapEvery < 0 || r.FlapEvery > 0 && r.FlapEvery < time.Millisecond:
		return fmt.Errorf("rule %s: the way changes every %s; give a millisecond or more", r.ID, r.FlapEvery)
	case r.DropLarger == 0 && r.LossRatio == 0 && !r.DropFragments && !r.Cut && r.BitsPerSecond == 0 && r.FlapEvery == 0:
		return fmt.Errorf("rule %s: it does nothing; give it an effect", r.ID)
	case r.From != "" && r.From == r.To:
		return fmt.Errorf("rule %s: from %s to itself; nothing crosses the fabric there", r.ID, r.From)
	}
	return nil
}

// compile is the rule as the kernel's program reads it.
func (r Rule) compile() bpf.Rule {
	out := bpf.Rule{
		Loss:          uint64(math.Round(r.LossRatio * (1 << 32))),
		BitsPerSecond: uint64(r.BitsPerSecond),
		FlapNs:        uint64(r.FlapEvery),
		DropLarger:    uint32(r.DropLarger),
		Answer:        flag(r.ICMP),
		Fragments:     flag(r.DropFragments),
		Cut:           flag(r.Cut),
	}
	if r.BitsPerSecond > 0 {
		rate := float64(r.BitsPerSecond) / 8
		burst := float64(r.BurstBytes)
		if burst == 0 {
			burst = max(rate*burstTime.Seconds(), leastBurst)
		}
		// A policer slower than a bit a second over this burst would overflow; it is as
		// good as closed long before.
		out.BurstNs = uint64(min(burst/rate*1e9, math.MaxInt64/2))
	}
	return out
}

func flag(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// order puts the worst rule of a pass first, which is the one that the kernel's
// program takes: of two that answer, the one with the smaller size.
func order(rules []*entry) {
	slices.SortStableFunc(rules, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(b.rule.LossRatio, a.rule.LossRatio), cmp.Compare(a.rule.DropLarger, b.rule.DropLarger), cmp.Compare(a.rule.ID, b.rule.ID))
	})
}
