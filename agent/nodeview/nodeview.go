// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package nodeview decides what belongs to this node. On a machine that runs
// several nodes on one kernel (kind, the lab) the kernel shows the devices and
// drops of all of them; the agent must report its own only. A network namespace
// is the node's when it is the agent's own, that of a process that the agent can
// see, or one that /run/netns names.
package nodeview

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// initialPIDNamespace is PROC_PID_INIT_INO (include/uapi/linux/nsfs.h since 6.18;
// include/linux/proc_ns.h before): the inode of the PID namespace that every
// process of the kernel is in.
const initialPIDNamespace = 0xEFFFFFFC

// nsfsMagic is NSFS_MAGIC (include/uapi/linux/magic.h): what a namespace file is
// on. Anything else under /run/netns is no namespace.
const nsfsMagic = 0x6e736673

// Config is what a View depends on.
type Config struct {
	// ProcPath is the proc file system of the node, normally /proc. It must belong
	// to the PID namespace that the agent runs in, and show the agent itself.
	ProcPath string
	// RunNetnsPath is where namespaces get names, normally /run/netns. It may be
	// missing.
	RunNetnsPath string
	Log          *slog.Logger
}

// A Namespace is one network namespace of the node.
type Namespace struct {
	// Inode is what the kernel calls it (ns.inum).
	Inode uint32
	// Own is true for the agent's own namespace, which is the host's when the
	// agent runs with hostNetwork.
	Own bool
	// PID is the representative process: one of the pod that owns the namespace if
	// there is one, else the lowest that is in it; 0 when only a name in
	// RunNetnsPath holds the namespace.
	PID int
	// Path opens the namespace, until the process has gone.
	Path string
	// PodUID is the pod that owns it; empty when no process in it is of a pod.
	PodUID string
	// Name is its name in RunNetnsPath, the first in order if it has several;
	// empty without one.
	Name string
}

// A View is the set of network namespaces that are the node's, as of the last
// Refresh. It is safe for concurrent use.
type View struct {
	cfg      Config
	log      *slog.Logger
	own      uint32
	filtered bool
	current  atomic.Pointer[scan]
}

// scan is the outcome of one Refresh; immutable.
type scan struct {
	namespaces []Namespace
	byInode    map[uint32]int
	unreadable int
	processes  int
}

// New makes a View and scans for the first time. The agent's own namespace is
// that of the calling thread and stays that for the life of the View.
func New(cfg Config) (*View, error) {
	if cfg.ProcPath == "" {
		cfg.ProcPath = "/proc"
	}
	if cfg.RunNetnsPath == "" {
		cfg.RunNetnsPath = "/run/netns"
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	own, err := namespaceOf(filepath.Join(cfg.ProcPath, "thread-self/ns/net"))
	if err != nil {
		return nil, fmt.Errorf("find the agent's own network namespace: %w (is %s the proc file system of the agent's PID namespace?)", err, cfg.ProcPath)
	}
	pidns, err := namespaceOf(filepath.Join(cfg.ProcPath, "self/ns/pid"))
	if err != nil {
		return nil, fmt.Errorf("find the agent's own PID namespace: %w (is %s the proc file system of the agent's PID namespace?)", err, cfg.ProcPath)
	}
	v := &View{
		cfg:      cfg,
		log:      log,
		own:      own,
		filtered: pidns != initialPIDNamespace,
	}
	if err := v.Refresh(context.Background()); err != nil {
		return nil, err
	}
	return v, nil
}

// Refresh scans again. On an error the previous scan stays in force.
//
// It costs one readlink per process and one more file per namespace. Nothing is
// cached between scans: a process may change its namespace (setns), and checking
// that it did not would cost as much as reading it again.
func (v *View) Refresh(ctx context.Context) error {
	s := &scan{byInode: map[uint32]int{}}
	s.add(Namespace{Inode: v.own, Own: true, PID: os.Getpid(), Path: filepath.Join(v.cfg.ProcPath, "self/ns/net")})
	if err := v.scanProcesses(ctx, s); err != nil {
		return err
	}
	if err := v.scanNames(s); err != nil {
		return err
	}
	if old := v.current.Load(); s.unreadable > 0 && (old == nil || old.unreadable == 0) {
		v.log.Warn("network namespaces of some processes cannot be read",
			"processes", s.unreadable, "mend", "give the agent CAP_SYS_PTRACE")
	}
	v.current.Store(s)
	return nil
}

func (s *scan) add(n Namespace) {
	s.byInode[n.Inode] = len(s.namespaces)
	s.namespaces = append(s.namespaces, n)
}

func (v *View) scanProcesses(ctx context.Context, s *scan) error {
	dir, err := os.Open(v.cfg.ProcPath)
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	names, err := dir.Readdirnames(-1)
	dir.Close()
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	pids := make([]int, 0, len(names))
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	for i, pid := range pids {
		if i%64 == 0 && ctx.Err() != nil {
			return fmt.Errorf("scan processes: %w", context.Cause(ctx))
		}
		if err := v.scanProcess(pid, s); err != nil {
			return err
		}
	}
	return nil
}

func (v *View) scanProcess(pid int, s *scan) error {
	path := filepath.Join(v.cfg.ProcPath, strconv.Itoa(pid), "ns/net")
	inode, err := namespaceOf(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH):
		return nil // it ended, or is a zombie: neither is in a namespace any more
	case errors.Is(err, fs.ErrPermission):
		s.processes++
		s.unreadable++
		return nil
	case err != nil:
		return fmt.Errorf("find network namespace of process %d: %w", pid, err)
	}
	s.processes++
	i, known := s.byInode[inode]
	if !known {
		i = len(s.namespaces)
		s.add(Namespace{Inode: inode, PID: pid, Path: path})
	}
	n := &s.namespaces[i]
	if n.Own || n.PodUID != "" {
		return nil
	}
	// A process of the host may have entered a pod's namespace (nsenter, a CNI
	// daemon): the first process of a pod decides whose it is.
	if uid := v.podOf(pid); uid != "" {
		n.PodUID, n.PID, n.Path = uid, pid, path
	}
	return nil
}

func (v *View) podOf(pid int) string {
	b, err := os.ReadFile(filepath.Join(v.cfg.ProcPath, strconv.Itoa(pid), "cgroup"))
	if err != nil {
		// The file is world-readable, so that the process has ended; the next scan
		// meets another one of its pod.
		v.log.Debug("process ended while its cgroup was read", "process", pid, "error", err)
		return ""
	}
	return PodUID(string(b))
}

func (v *View) scanNames(s *scan) error {
	entries, err := os.ReadDir(v.cfg.RunNetnsPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list named network namespaces: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(v.cfg.RunNetnsPath, e.Name())
		inode, ok := namespaceFile(path)
		if !ok {
			continue
		}
		i, known := s.byInode[inode]
		if !known {
			i = len(s.namespaces)
			s.add(Namespace{Inode: inode, Path: path})
		}
		if s.namespaces[i].Name == "" {
			s.namespaces[i].Name = e.Name()
		}
	}
	return nil
}

// namespaceFile reads a bind mount of a namespace without opening it, since the
// directory may hold anything (a FIFO would block). A file that is being made or
// removed is on another file system, and no namespace.
func namespaceFile(path string) (uint32, bool) {
	var sfs unix.Statfs_t
	if err := unix.Statfs(path, &sfs); err != nil || sfs.Type != nsfsMagic {
		return 0, false
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, false
	}
	return uint32(st.Ino), true
}

// namespaceOf reads the inode that a /proc/…/ns link names: "net:[4026531833]".
func namespaceOf(path string) (uint32, error) {
	target, err := os.Readlink(path)
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(target, ":[")
	digits, end := strings.CutSuffix(rest, "]")
	if !ok || !end {
		return 0, fmt.Errorf("read %s: %q is no namespace", path, target)
	}
	inode, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("read %s: %q is no namespace", path, target)
	}
	return uint32(inode), nil
}

// Namespaces returns the node's network namespaces: the agent's own first, then
// in the order of their representative processes, then those that only have a
// name. The slice is the caller's.
func (v *View) Namespaces() []Namespace { return slices.Clone(v.current.Load().namespaces) }

// Own is the inode of the agent's own network namespace.
func (v *View) Own() uint32 { return v.own }

// Contains says whether a network namespace is the node's. Without a filter
// everything on the kernel is.
func (v *View) Contains(inode uint32) bool {
	if !v.filtered {
		return true
	}
	_, ok := v.current.Load().byInode[inode]
	return ok
}

// PodByNetns returns the UID of the pod that owns a network namespace.
func (v *View) PodByNetns(inode uint32) (string, bool) {
	s := v.current.Load()
	i, ok := s.byInode[inode]
	if !ok || s.namespaces[i].PodUID == "" {
		return "", false
	}
	return s.namespaces[i].PodUID, true
}

// Filtered is false when the agent's PID namespace is the initial one: then this
// kernel is one node, and everything on it is the node's.
func (v *View) Filtered() bool { return v.filtered }

// Unreadable is how many processes of the last scan did not let the agent read
// their network namespace. Namespaces that only they are in are missing.
func (v *View) Unreadable() int { return v.current.Load().unreadable }

// Processes is how many processes the last scan saw.
func (v *View) Processes() int { return v.current.Load().processes }
