// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A job is what a guest does: load modules, run one program, print what it
// prints between two marks, and end.
type job struct {
	// Program is a static binary of the host; it runs as /program.
	program string
	args    []string
	// Tools are programs of the host that the job needs, with their libraries.
	tools []string
	// Modules are loaded in this order.
	modules []string
	timeout time.Duration
}

// Marks around the program's output on the serial console.
const (
	markBegin = "PLUMB-VM-BEGIN"
	markEnd   = "PLUMB-VM-END"
)

// run boots the kernel and returns what the program wrote and its exit status.
// A guest that hangs is killed at the time-out.
//
// Emulating two processors on two threads, QEMU has been seen to run code that
// the kernel was just patching: a panic at boot, before the program began, and a
// soft lockup at program load. Such a boot says nothing of Plumb and is done once
// more, on one thread; anything else is the result.
func (k kernel) run(ctx context.Context, guest string, j job) (output string, status int, err error) {
	initrd, err := k.pack(guest, j)
	if err != nil {
		return "", 0, err
	}
	defer os.Remove(initrd)
	console, err := k.boot(ctx, initrd, "multi", j.timeout)
	if emulatorFailed(console) {
		console, err = k.boot(ctx, initrd, "single", 2*j.timeout)
	}
	if err != nil {
		return "", 0, fmt.Errorf("boot %s: %w; the console ends with:\n%s", k.release, err, tail(console, 4000))
	}
	return parseConsole(console)
}

// emulatorFailed says whether a console shows a failure that is not the guest
// program's.
func emulatorFailed(console string) bool {
	return !strings.Contains(console, markBegin) || strings.Contains(console, "soft lockup")
}

func (k kernel) pack(guest string, j job) (string, error) {
	a := newArchive()
	if err := a.addFile("/init", guest, modeExec); err != nil {
		return "", err
	}
	if err := a.addFile("/program", j.program, modeExec); err != nil {
		return "", err
	}
	for _, tool := range j.tools {
		if err := a.addProgram(tool); err != nil {
			return "", err
		}
	}
	order := make([]string, 0, len(j.modules))
	for i, name := range j.modules {
		data, err := k.module(name)
		if err != nil {
			return "", err
		}
		file := fmt.Sprintf("/modules/%02d-%s.ko", i, name)
		a.add(file, modeFile, data)
		order = append(order, file)
	}
	orders, err := json.Marshal(map[string]any{"args": j.args, "modules": order})
	if err != nil {
		return "", err
	}
	a.add("/job.json", modeFile, orders)
	for _, dir := range []string{"/proc", "/sys", "/dev", "/tmp", "/run", "/etc"} {
		a.add(dir+"/.keep", modeFile, nil)
	}
	f, err := os.CreateTemp("", "plumb-initrd-")
	if err != nil {
		return "", fmt.Errorf("pack initramfs: %w", err)
	}
	if err := a.write(f); err != nil {
		f.Close()
		os.Remove(f.Name())
		return "", fmt.Errorf("pack initramfs: %w", err)
	}
	return f.Name(), f.Close()
}

func (k kernel) boot(ctx context.Context, initrd, threads string, timeout time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-accel", "tcg,thread="+threads, "-cpu", "max", "-smp", "2", "-m", "1024",
		"-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-kernel", k.image, "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off nokaslr")
	var console bytes.Buffer
	cmd.Stdout, cmd.Stderr = &console, &console
	err := cmd.Run()
	if ctx.Err() != nil {
		return console.String(), fmt.Errorf("the guest did not end within %s", timeout)
	}
	return console.String(), err
}

func parseConsole(console string) (string, int, error) {
	console = strings.ReplaceAll(console, "\r\n", "\n")
	_, rest, found := strings.Cut(console, markBegin+"\n")
	if !found {
		return "", 0, fmt.Errorf("the guest never started its program; the console ends with:\n%s", tail(console, 4000))
	}
	end := regexp.MustCompile("(?m)" + markEnd + ` ([0-9]+)$`).FindStringSubmatchIndex(rest)
	if end == nil {
		return "", 0, fmt.Errorf("the guest's program did not end; the console ends with:\n%s", tail(rest, 4000))
	}
	status, err := strconv.Atoi(rest[end[2]:end[3]])
	return rest[:end[0]], status, err
}

func tail(s string, n int) string {
	if len(s) > n {
		return s[len(s)-n:]
	}
	return s
}

// cacheDir is where unpacked kernels are kept between runs.
func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir()
	}
	dir := filepath.Join(base, "plumb-kernels")
	return dir, os.MkdirAll(dir, 0o755)
}
