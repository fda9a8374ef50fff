// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// programs are the BPF programs that a process holds, by name.
func programs(b *testing.B, pid int) map[string]*ebpf.Program {
	b.Helper()
	out := map[string]*ebpf.Program{}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	require.NoError(b, err)
	for _, path := range files {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // it was closed meanwhile
		}
		_, rest, found := strings.Cut(string(raw), "prog_id:")
		if !found {
			continue
		}
		id, err := strconv.ParseUint(strings.Fields(rest)[0], 10, 32)
		require.NoError(b, err)
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
		if err != nil {
			continue
		}
		info, err := p.Info()
		require.NoError(b, err)
		if old := out[info.Name]; old != nil {
			old.Close()
		}
		out[info.Name] = p
	}
	b.Cleanup(func() {
		for _, p := range out {
			p.Close()
		}
	})
	return out
}

// strangers is how many programs of the agent's kind others have loaded on this
// kernel, which make every drop dearer.
func strangers(own map[string]*ebpf.Program) int {
	count := 0
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if err != nil {
			break
		}
		id = next
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue
		}
		if info, err := p.Info(); err == nil && strings.HasPrefix(info.Name, "kfree_skb") {
			count++
		}
		p.Close()
	}
	for name := range own {
		if strings.HasPrefix(name, "kfree_skb") {
			count--
		}
	}
	return count
}

// runs is what the kernel says that a program did.
type runs struct {
	RunCount uint64
	Runtime  time.Duration
}

// accounted does something and returns what the programs of a process did
// meanwhile, by name. The kernel's accounting makes every program dearer; it is
// on for that long only, and ends with its file whatever happens here.
func accounted(b *testing.B, pid int, do func()) map[string]runs {
	b.Helper()
	accounting, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	require.NoError(b, err)
	own := programs(b, pid)
	read := func() map[string]runs {
		out := map[string]runs{}
		for name, p := range own {
			s, err := p.Stats()
			require.NoError(b, err)
			out[name] = runs{s.RunCount, s.Runtime}
		}
		return out
	}
	before := read()
	do()
	after := read()
	require.NoError(b, accounting.Close())
	for name, a := range after {
		after[name] = runs{a.RunCount - before[name].RunCount, a.Runtime - before[name].Runtime}
	}
	return after
}
