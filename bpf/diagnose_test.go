// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestRefusalsAreExplained(t *testing.T) {
	const all = "000001ffffffffff"
	permission := fmt.Errorf("load program: %w (MEMLOCK may be too low, consider rlimit.RemoveMemlock)", unix.EPERM)
	for _, tt := range []struct {
		name, capabilities, lockdown string
		noBTF                        bool
		err                          error
		want                         string
	}{
		{name: "no BTF", capabilities: all, noBTF: true, err: os.ErrNotExist, want: "CONFIG_DEBUG_INFO_BTF"},
		{name: "no capability", capabilities: "0", err: permission, want: "attach: CAP_BPF and CAP_PERFMON missing; grant it to the agent: load program: operation not permitted"},
		{name: "only CAP_BPF", capabilities: "8000000000", err: permission, want: "attach: CAP_PERFMON missing"},
		{name: "only CAP_PERFMON", capabilities: "4000000000", err: permission, want: "attach: CAP_BPF missing"},
		{name: "CAP_SYS_ADMIN has both", capabilities: "200000", err: permission, want: "security module or seccomp"},
		{name: "lockdown", capabilities: all, lockdown: "none integrity [confidentiality]", err: unix.EINVAL, want: "lockdown is at confidentiality"},
		{name: "a weaker lockdown is no reason", capabilities: all, lockdown: "none [integrity] confidentiality", err: unix.EINVAL, want: "attach: invalid argument"},
		{name: "the verifier's refusal is its own", capabilities: all, err: &ebpf.VerifierError{Cause: unix.EACCES, Log: []string{"R1 is not a scalar"}}, want: "R1 is not a scalar"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sys, proc := t.TempDir(), t.TempDir()
			write := func(path, content string) {
				require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
				require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
			}
			if !tt.noBTF {
				write(filepath.Join(sys, "kernel/btf/vmlinux"), "")
			}
			if tt.lockdown != "" {
				write(filepath.Join(sys, "kernel/security/lockdown"), tt.lockdown+"\n")
			}
			write(filepath.Join(proc, "self/status"), "Name:\tx\nCapEff:\t"+tt.capabilities+"\n")
			err := newDiagnosis(sys, proc).explain("attach", tt.err)
			require.ErrorContains(t, err, tt.want)
			require.NotContains(t, err.Error(), "MEMLOCK")
			require.NotContains(t, err.Error(), "seccomp profile may forbid bpf(2): R1")
			require.True(t, errors.Is(err, tt.err), "the cause stays in the chain")
		})
	}
}
