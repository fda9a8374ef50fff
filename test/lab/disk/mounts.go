// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A mount is a line of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	major, minor  uint32
	point         string
	kind, source  string
	mountNS, proc string
}

// mounts are what a process ("self", or a number) has mounted.
func mounts(process string) ([]mount, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", process, "mountinfo"))
	if err != nil {
		return nil, err
	}
	return parseMounts(string(raw)), nil
}

func parseMounts(text string) []mount {
	var out []mount
	for line := range strings.Lines(text) {
		// 36 35 98:0 /root /point rw,noatime shared:1 - ext3 /dev/root rw,errors=continue
		before, after, found := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !found || len(left) < 5 || len(right) < 2 {
			continue
		}
		var m mount
		if n, err := fmt.Sscanf(left[2], "%d:%d", &m.major, &m.minor); err != nil || n != 2 {
			continue
		}
		m.point, m.kind, m.source = unescape(left[4]), right[0], unescape(right[1])
		out = append(out, m)
	}
	return out
}

// unescape undoes mangle() of the kernel: space, tab, newline and backslash are
// written as a backslash and three octal digits.
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if code, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(code))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// everyMount lists the mounts of every mount namespace that a process is in, each
// namespace once. Processes that end meanwhile are left out.
func everyMount() ([]mount, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	seen := map[string]bool{}
	var out []mount
	for _, entry := range entries {
		process := entry.Name()
		if _, err := strconv.Atoi(process); err != nil {
			continue
		}
		namespace, err := os.Readlink(filepath.Join("/proc", process, "ns/mnt"))
		if err != nil || seen[namespace] {
			continue
		}
		all, err := mounts(process)
		if err != nil {
			continue
		}
		seen[namespace] = true
		for _, m := range all {
			m.mountNS, m.proc = namespace, process
			out = append(out, m)
		}
	}
	return out, nil
}

// inMountNamespace runs fn on a thread of its own in the mount namespace that path
// names, a private copy of the caller's for "". The thread ends afterwards.
func inMountNamespace(path string, fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		result <- func() error {
			if path != "" {
				file, err := os.Open(path)
				if err != nil {
					return fmt.Errorf("open mount namespace: %w", err)
				}
				defer file.Close()
				// A thread that shares its root with others may not change its namespace.
				if err := unix.Unshare(unix.CLONE_FS); err != nil {
					return fmt.Errorf("leave the shared root: %w", err)
				}
				if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNS); err != nil {
					return fmt.Errorf("enter mount namespace: %w", err)
				}
				return fn()
			}
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("make mount namespace: %w", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return fmt.Errorf("make mounts private: %w", err)
			}
			return fn()
		}()
	}()
	return <-result
}
