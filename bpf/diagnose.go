// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// A diagnosis explains why the kernel refused a program. It looks only after
// something failed: what works needs no reason.
type diagnosis struct {
	sys, proc string
}

func newDiagnosis(sys, proc string) diagnosis {
	if sys == "" {
		sys = "/sys"
	}
	if proc == "" {
		proc = "/proc"
	}
	return diagnosis{sys: sys, proc: proc}
}

// explain wraps err with its cause and what would mend it.
func (d diagnosis) explain(what string, err error) error {
	err = withoutHint(err)
	if _, statErr := os.Stat(filepath.Join(d.sys, "kernel/btf/vmlinux")); errors.Is(statErr, os.ErrNotExist) {
		return fmt.Errorf("%s: the kernel has no %s (CONFIG_DEBUG_INFO_BTF=n); run a kernel with BTF: %w", what, filepath.Join(d.sys, "kernel/btf/vmlinux"), err)
	}
	// The verifier's own refusals are EACCES too, but say why in their log.
	var verifier *ebpf.VerifierError
	refused := (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)) && !errors.As(err, &verifier)
	if missing := d.missingCapabilities(); refused && len(missing) > 0 {
		return fmt.Errorf("%s: %s missing; grant it to the agent: %w", what, strings.Join(missing, " and "), err)
	}
	// Lockdown takes bpf_probe_read_kernel from programs; the verifier then calls
	// it unknown (EINVAL), since 5.5 (9d1f8be5cf42).
	if d.confidential() {
		return fmt.Errorf("%s: kernel lockdown is at confidentiality, which forbids programs to read kernel memory; lockdown=integrity allows it: %w", what, err)
	}
	if refused {
		return fmt.Errorf("%s: refused although CAP_BPF and CAP_PERFMON are held; a security module or seccomp profile may forbid bpf(2): %w", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Bits of CapEff in proc_pid_status(5), from linux/capability.h. CAP_SYS_ADMIN
// contains CAP_BPF and CAP_PERFMON, which exist since 5.8.
const (
	capSysAdmin = 21
	capPerfmon  = 38
	capBPF      = 39
)

func (d diagnosis) missingCapabilities() []string {
	effective, err := d.effective()
	if err != nil || effective&(1<<capSysAdmin) != 0 {
		return nil
	}
	var missing []string
	if effective&(1<<capBPF) == 0 {
		missing = append(missing, "CAP_BPF")
	}
	if effective&(1<<capPerfmon) == 0 {
		missing = append(missing, "CAP_PERFMON")
	}
	return missing
}

func (d diagnosis) effective() (uint64, error) {
	// Capabilities belong to a thread; those of the process as a whole are what
	// was granted.
	f, err := os.Open(filepath.Join(d.proc, "self/status"))
	if err != nil {
		return 0, fmt.Errorf("read capabilities: %w", err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		if value, ok := strings.CutPrefix(s.Text(), "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		}
	}
	return 0, errors.New("read capabilities: no CapEff in /proc/self/status")
}

func (d diagnosis) confidential() bool {
	state, err := os.ReadFile(filepath.Join(d.sys, "kernel/security/lockdown"))
	return err == nil && strings.Contains(string(state), "[confidentiality]")
}

// withoutHint drops the library's advice on every EPERM to raise RLIMIT_MEMLOCK:
// kernels since 5.11 do not look at it, and it hides the real reason.
func withoutHint(err error) error {
	if err == nil || !strings.Contains(err.Error(), memlockHint) {
		return err
	}
	return &plainError{err}
}

const memlockHint = " (MEMLOCK may be too low, consider rlimit.RemoveMemlock)"

type plainError struct{ err error }

func (e *plainError) Error() string { return strings.ReplaceAll(e.err.Error(), memlockHint, "") }
func (e *plainError) Unwrap() error { return e.err }
