// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package podgroup

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// kubepods is the kubelet's directory with the cgroupfs driver; below it stand
// pod<uid> and in that one directory per container
// (kubernetes/pkg/kubelet/cm/pod_container_manager_linux.go).
const (
	kubepods  = "kubepods"
	container = "lab"
)

// emptyLimit is how long the kernel may take to empty a cgroup whose processes
// were killed.
const emptyLimit = 10 * time.Second

// Kind is what a group is written down as in a run's list.
const Kind = "cgroup"

// Owner writes down what is about to be made.
type Owner interface {
	Own(kind string, detail any) error
}

// A Group is one pod's cgroup, in the one hierarchy that names processes here, and
// in the cpu hierarchy of cgroup v1 where there is one.
type Group struct {
	// UID of the pod.
	UID string
	// dirs are the container's directories.
	dirs []string
	cpu  string
}

// hierarchies are where a pod's directory can be made: the unified one, alone or
// beside cgroup v1, else any of v1. cpu is where the CPU quota is set, "" for
// nowhere.
func hierarchies(root string) (named, cpu string) {
	has := func(dir, file string) bool {
		return unix.Access(filepath.Join(root, dir, file), unix.W_OK) == nil
	}
	for _, dir := range []string{"unified", "", "pids", "systemd", "cpu", "memory"} {
		if has(dir, "cgroup.procs") {
			named = filepath.Join(root, dir)
			break
		}
	}
	for _, dir := range []string{"cpu", "cpu,cpuacct"} {
		if has(dir, "cpu.shares") {
			return named, filepath.Join(root, dir)
		}
	}
	controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err == nil && strings.Contains(" "+string(controllers)+" ", " cpu ") {
		cpu = root
	}
	return named, cpu
}

// New makes the cgroup of a pod with a UID of its own. root is where cgroups are
// mounted, /sys/fs/cgroup.
func New(root string, owner Owner) (*Group, error) {
	g := &Group{UID: newUID()}
	named, cpu := hierarchies(root)
	if named == "" {
		return nil, fmt.Errorf("make the pod's cgroup: no hierarchy below %s can be written; mount cgroup2 and run as root", root)
	}
	for _, hierarchy := range []string{named, cpu} {
		if hierarchy == "" || len(g.dirs) > 0 && hierarchy == named {
			continue
		}
		dir := filepath.Join(hierarchy, kubepods, "pod"+g.UID, container)
		if err := owner.Own(Kind, filepath.Dir(dir)); err != nil {
			return nil, err
		}
		// Another run may remove kubepods, empty for a moment, between the steps.
		var err error
		for range 100 {
			if err = os.MkdirAll(dir, 0o755); !errors.Is(err, fs.ErrNotExist) {
				break
			}
		}
		if err != nil {
			return nil, fmt.Errorf("make the pod's cgroup: %w", err)
		}
		g.dirs = append(g.dirs, dir)
	}
	if cpu != "" && (cpu != named || delegate(cpu, g.UID)) {
		g.cpu = filepath.Join(cpu, kubepods, "pod"+g.UID, container)
	}
	return g, nil
}

// delegate lets the container's group of cgroup v2 have a CPU quota: the controller
// is switched on from the top down (cgroup-v2.rst, "Enabling and Disabling"). At
// the root it is left as the machine has it.
func delegate(root, uid string) bool {
	enabled, err := os.ReadFile(filepath.Join(root, "cgroup.subtree_control"))
	if err != nil || !strings.Contains(" "+strings.TrimSpace(string(enabled))+" ", " cpu ") {
		return false
	}
	for _, dir := range []string{kubepods, filepath.Join(kubepods, "pod"+uid)} {
		if os.WriteFile(filepath.Join(root, dir, "cgroup.subtree_control"), []byte("+cpu"), 0) != nil {
			return false
		}
	}
	return true
}

// CPU is the directory in which the pod's CPU quota is set, "" when this machine
// has no cpu controller that can be used.
func (g *Group) CPU() string { return g.cpu }

// Open opens the files through which a process joins the group by writing 0. The
// cgroup tree is mounted outside of a node only, so the process inherits them.
func (g *Group) Open() ([]*os.File, error) {
	var files []*os.File
	for _, dir := range g.dirs {
		f, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
		if err != nil {
			for _, f := range files {
				_ = f.Close()
			}
			return nil, fmt.Errorf("open the pod's cgroup: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}

// Remover removes a pod's cgroup that is written down. Its processes have ended
// with their namespaces; it waits until the kernel has noticed.
func Remover(detail json.RawMessage) error {
	var pod string
	if err := json.Unmarshal(detail, &pod); err != nil {
		return fmt.Errorf("remove a cgroup: %w", err)
	}
	if filepath.Base(filepath.Dir(pod)) != kubepods || !strings.HasPrefix(filepath.Base(pod), "pod") {
		return fmt.Errorf("remove the cgroup %s: it is no pod's", pod)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); ; <-tick.C {
		err := errors.Join(rmdir(filepath.Join(pod, container)), rmdir(pod))
		if err == nil {
			// Not empty while other runs have pods.
			_ = os.Remove(filepath.Dir(pod))
			return nil
		}
		if time.Since(begin) > emptyLimit {
			return fmt.Errorf("remove the cgroup of a pod: %w; a process is still in it after %s", err, emptyLimit)
		}
	}
}

func rmdir(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// newUID makes a random UUID (RFC 9562 section 5.4), as the API server does for
// every object.
func newUID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails since Go 1.24
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
