// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/plumb-dev/plumb/internal/machine"
)

// A filter is a table of rules of its own in one network namespace.
type filter struct {
	machine *machine.Machine
	netns   string
	table   string
}

// newFilter loads chains into a table named for the fault.
func newFilter(ctx context.Context, m *machine.Machine, netns, table string, chains ...string) (*filter, error) {
	f := &filter{machine: m, netns: netns, table: table}
	text := fmt.Sprintf("table inet %s {\n%s\n}\n", table, strings.Join(chains, "\n"))
	if _, err := m.Feed(ctx, text, f.nft("-f", "-")...); err != nil {
		return nil, fmt.Errorf("filter packets: %w", err)
	}
	return f, nil
}

func (f *filter) nft(args ...string) []string {
	if f.netns == "" {
		return append([]string{"nft"}, args...)
	}
	return append([]string{"nsenter", "--net=/run/netns/" + f.netns, "--", "nft"}, args...)
}

// close removes the table.
func (f *filter) close(ctx context.Context) error {
	if _, err := f.machine.Run(ctx, f.nft("delete", "table", "inet", f.table)...); err != nil {
		return fmt.Errorf("stop filtering packets: %w", err)
	}
	return nil
}

// chain is a base chain with rules.
func chain(hook string, rules ...string) string {
	return fmt.Sprintf("chain at_%s { type filter hook %s priority filter; policy accept;\n%s\n}", hook, hook, strings.Join(rules, "\n"))
}

// fragNeeded are the messages of path MTU discovery (RFC 792, RFC 4443 section
// 3.2).
func fragNeeded() []string {
	return []string{
		"icmp type destination-unreachable icmp code frag-needed drop",
		"icmpv6 type packet-too-big drop",
	}
}

// fromTo matches packets of some clients to one of some addresses, with a verdict.
func fromTo(clients []netip.Prefix, to []netip.Addr, verdict string) []string {
	var rules []string
	for _, c := range clients {
		for _, a := range to {
			if c.Addr().Is4() != a.Is4() {
				continue
			}
			family := "ip6"
			if a.Is4() {
				family = "ip"
			}
			rules = append(rules, fmt.Sprintf("%s saddr %s %s daddr %s %s", family, c, family, a, verdict))
		}
	}
	return rules
}
