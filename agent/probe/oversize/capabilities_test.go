// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/agent/hostclock"
	"github.com/plumb-dev/plumb/agent/probe"
	"github.com/plumb-dev/plumb/agent/probe/link"
	"github.com/plumb-dev/plumb/evidence"
	"github.com/plumb-dev/plumb/internal/testutils"
)

// childResult is what the test's own binary prints as a child with fewer
// capabilities.
type childResult struct {
	Hooks   []probe.Hook
	Unknown map[uint32]string
	Known   []uint32
}

const childVariable = "PLUMB_OVERSIZE_CHILD"

// TestChild is the child; it does nothing in an ordinary run.
func TestChild(t *testing.T) {
	if os.Getenv(childVariable) == "" {
		return
	}
	p, err := New(Config{
		NodeView: &fakeView{}, Inventory: noInventory{}, Clock: hostclock.New(), Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	p.inventory = func() devices {
		return fakeDevices{{Netns: 1, Ifindex: 2, Name: "flannel.1", Role: link.RoleOverlay, Encapsulation: "vxlan"}}
	}
	var s evidence.Sample
	require.NoError(t, p.Sample(context.Background(), &s))
	r := childResult{Hooks: p.Hooks(), Unknown: map[uint32]string{}}
	for _, o := range s.Observations {
		for _, i := range o.Items {
			if u := i.GetUnknown(); u != nil && u.GetReason() == evidence.Blind {
				r.Unknown[i.GetId()] = u.GetDetail()
			} else {
				r.Known = append(r.Known, i.GetId())
			}
		}
	}
	require.NoError(t, json.NewEncoder(os.NewFile(3, "result")).Encode(r))
	require.NoError(t, p.Close())
}

func runChild(t *testing.T, bounding string) childResult {
	t.Helper()
	read, write, err := os.Pipe()
	require.NoError(t, err)
	defer read.Close()
	cmd := exec.Command("setpriv", "--bounding-set", bounding, "--inh-caps", "-all", os.Args[0], "-test.run", "^TestChild$")
	cmd.Env = append(os.Environ(), childVariable+"=1")
	cmd.ExtraFiles = []*os.File{write}
	out, err := cmd.CombinedOutput()
	require.NoError(t, write.Close())
	require.NoError(t, err, string(out))
	var r childResult
	require.NoError(t, json.NewDecoder(read).Decode(&r))
	return r
}

func hook(t *testing.T, hooks []probe.Hook, signal string) probe.Hook {
	t.Helper()
	for _, h := range hooks {
		if h.Signal == signal {
			return h
		}
	}
	t.Fatalf("no hook %s", signal)
	return probe.Hook{}
}

func TestMissingCapabilitiesAreNamed(t *testing.T) {
	testutils.SkipUnlessRoot(t)
	for _, tt := range []struct {
		name, bounding string
		// drop is what the detail of oversize.drop must say; empty when it works.
		drop, site string
	}{
		{"none at all", "-all", "CAP_BPF and CAP_PERFMON missing", ""},
		{"only CAP_BPF", "-all,+bpf,+syslog", "CAP_PERFMON missing", ""},
		{"only CAP_PERFMON", "-all,+perfmon,+syslog", "CAP_BPF missing", ""},
		{"without CAP_SYSLOG", "-all,+bpf,+perfmon", "", "CAP_SYSLOG missing"},
		{"what the agent asks for", "-all,+bpf,+perfmon,+syslog", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := runChild(t, tt.bounding)
			drop, site := hook(t, r.Hooks, "oversize.drop"), hook(t, r.Hooks, "oversize.site")
			require.NotContains(t, drop.Detail, "MEMLOCK")
			require.Contains(t, r.Known, uint32(evidence.OversizeOuterFragmentsWindow), "counters need no capability")
			if tt.drop != "" {
				require.Contains(t, drop.Detail, tt.drop)
				require.Empty(t, drop.Rung)
				require.False(t, drop.Confirmed)
				require.Contains(t, r.Unknown[uint32(evidence.OversizeWatchedSeconds)], tt.drop)
				require.Contains(t, r.Unknown[uint32(evidence.OversizeEncapsulatedDropsTotal)], tt.drop)
				return
			}
			require.True(t, drop.Confirmed, drop.Detail)
			require.Regexp(t, `^tp_btf/kfree_skb:[234]$`, drop.Rung)
			require.True(t, hook(t, r.Hooks, "oversize.adapt").Confirmed)
			if tt.site != "" {
				require.Contains(t, site.Detail, tt.site)
				require.Contains(t, r.Unknown[uint32(evidence.OversizeEncapsulatedDropsTotal)], tt.site, "a zero of a blind hook would look healthy")
				return
			}
			require.True(t, site.Confirmed)
			require.Empty(t, site.Detail)
		})
	}
}
