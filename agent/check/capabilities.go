// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// used are the capabilities that the agent makes use of, each with its reason.
// Numbers are those of include/uapi/linux/capability.h.
func used() []struct {
	name, reason string
	number       int
} {
	return []struct {
		name, reason string
		number       int
	}{
		{"BPF", "loading the drop programs", unix.CAP_BPF},
		{"PERFMON", "tracing programs that read kernel memory", unix.CAP_PERFMON},
		{"NET_ADMIN", "devices of pods by network namespace id", unix.CAP_NET_ADMIN},
		{"NET_RAW", "path probes", unix.CAP_NET_RAW},
		{"SYSLOG", "kernel function addresses in /proc/kallsyms", unix.CAP_SYSLOG},
		{"SYS_PTRACE", "network namespaces of other users' processes", unix.CAP_SYS_PTRACE},
		{"SYS_ADMIN", "optional: routes inside the pods' namespaces", unix.CAP_SYS_ADMIN},
	}
}

// Capabilities reads the effective set from <procPath>/self/status.
func Capabilities(procPath string) ([]Capability, error) {
	path := filepath.Join(procPath, "self", "status")
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read capabilities: %w", err)
	}
	defer f.Close()
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		value, found := strings.CutPrefix(scanner.Text(), "CapEff:")
		if !found {
			continue
		}
		set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil {
			return nil, fmt.Errorf("read capabilities from %s: %w", path, err)
		}
		var out []Capability
		for _, c := range used() {
			out = append(out, Capability{Name: c.name, Held: set&(1<<c.number) != 0, For: c.reason})
		}
		return out, nil
	}
	return nil, fmt.Errorf("read capabilities from %s: no CapEff line", path)
}
