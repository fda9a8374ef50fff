// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package nodeview

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/testutils"
)

// fakeProc makes a tree that looks like proc to a View.
type fakeProc struct {
	tb   testing.TB
	path string
}

func newFakeProc(tb testing.TB, ownNetns, pidns uint32) *fakeProc {
	p := &fakeProc{tb: tb, path: tb.TempDir()}
	p.link("thread-self/ns/net", fmt.Sprintf("net:[%d]", ownNetns))
	p.link("self/ns/net", fmt.Sprintf("net:[%d]", ownNetns))
	p.link("self/ns/pid", fmt.Sprintf("pid:[%d]", pidns))
	require.NoError(tb, os.WriteFile(filepath.Join(p.path, "uptime"), nil, 0o644))
	return p
}

func (p *fakeProc) link(name, target string) {
	path := filepath.Join(p.path, name)
	require.NoError(p.tb, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(p.tb, os.Symlink(target, path))
}

func (p *fakeProc) process(pid int, netns uint32, cgroup string) {
	p.link(filepath.Join(strconv.Itoa(pid), "ns/net"), fmt.Sprintf("net:[%d]", netns))
	require.NoError(p.tb, os.WriteFile(filepath.Join(p.path, strconv.Itoa(pid), "cgroup"), []byte(cgroup), 0o644))
}

func (p *fakeProc) view() *View {
	v, err := New(Config{ProcPath: p.path, RunNetnsPath: filepath.Join(p.path, "no-such-directory")})
	require.NoError(p.tb, err)
	return v
}

const inPodA, inPodB, inHost = "0::/kubepods/pod" + uidA + "/c\n", "0::/kubepods/pod" + uidB + "/c\n", "0::/system.slice/x.service\n"

func TestViewFindsNamespacesAndPods(t *testing.T) {
	p := newFakeProc(t, 100, 4026532000)
	p.process(1, 100, inHost)
	p.process(20, 100, inPodB) // hostNetwork: does not make the host's namespace a pod's
	p.process(30, 201, inPodA)
	p.process(31, 201, inPodA)
	p.process(40, 202, inHost) // entered by nsenter before the pod's own process is met
	p.process(41, 202, inPodB)
	p.process(9, 203, inHost)
	v := p.view()

	require.Equal(t, uint32(100), v.Own())
	require.Equal(t, []Namespace{
		{Inode: 100, Own: true, PID: os.Getpid(), Path: filepath.Join(p.path, "self/ns/net")},
		{Inode: 203, PID: 9, Path: filepath.Join(p.path, "9/ns/net")},
		{Inode: 201, PID: 30, Path: filepath.Join(p.path, "30/ns/net"), PodUID: uidA},
		{Inode: 202, PID: 41, Path: filepath.Join(p.path, "41/ns/net"), PodUID: uidB},
	}, v.Namespaces())
	require.Equal(t, 7, v.Processes())
	require.Zero(t, v.Unreadable())

	uid, ok := v.PodByNetns(202)
	require.True(t, ok)
	require.Equal(t, uidB, uid)
	for _, inode := range []uint32{100, 203, 999} {
		_, ok = v.PodByNetns(inode)
		require.False(t, ok, "namespace %d is no pod's", inode)
	}
}

func TestContainsFollowsThePIDNamespace(t *testing.T) {
	t.Run("in the initial one everything is the node's", func(t *testing.T) {
		p := newFakeProc(t, 100, initialPIDNamespace)
		v := p.view()
		require.False(t, v.Filtered())
		require.True(t, v.Contains(100))
		require.True(t, v.Contains(999))
	})
	t.Run("in another one only what it sees", func(t *testing.T) {
		p := newFakeProc(t, 100, 4026532000)
		p.process(30, 201, inPodA)
		v := p.view()
		require.True(t, v.Filtered())
		require.True(t, v.Contains(100))
		require.True(t, v.Contains(201))
		require.False(t, v.Contains(999))
	})
}

func TestRefreshFollowsChanges(t *testing.T) {
	p := newFakeProc(t, 100, 4026532000)
	p.process(30, 201, inPodA)
	v := p.view()
	before := v.Namespaces()
	require.NoError(t, os.RemoveAll(filepath.Join(p.path, "30")))
	p.process(31, 202, inPodB)
	require.NoError(t, v.Refresh(context.Background()))
	require.False(t, v.Contains(201))
	require.True(t, v.Contains(202))
	require.Len(t, before, 2, "an earlier answer does not change")
	require.Equal(t, uint32(201), before[1].Inode)
}

func TestARefreshThatFailsKeepsTheOldView(t *testing.T) {
	p := newFakeProc(t, 100, 4026532000)
	p.process(30, 201, inPodA)
	v := p.view()

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, v.Refresh(ctx), context.Canceled)
	require.True(t, v.Contains(201))

	p.link("31/ns/net", "nonsense")
	require.ErrorContains(t, v.Refresh(context.Background()), `process 31: read`)
	require.True(t, v.Contains(201))
}

func TestZombiesAreInNoNamespace(t *testing.T) {
	p := newFakeProc(t, 100, 4026532000)
	require.NoError(t, os.MkdirAll(filepath.Join(p.path, "77/ns"), 0o755)) // ns/net reads as missing
	v := p.view()
	require.Len(t, v.Namespaces(), 1)
	require.Zero(t, v.Unreadable())
	require.Zero(t, v.Processes())
}

func TestNewNamesWhatIsWrong(t *testing.T) {
	_, err := New(Config{ProcPath: t.TempDir()})
	require.ErrorContains(t, err, "find the agent's own network namespace")

	p := newFakeProc(t, 100, 1)
	require.NoError(t, os.Remove(filepath.Join(p.path, "self/ns/pid")))
	p.link("self/ns/pid", "pid:[99999999999]")
	_, err = New(Config{ProcPath: p.path})
	require.ErrorContains(t, err, `"pid:[99999999999]" is no namespace`)
}

func TestNamedNamespaces(t *testing.T) {
	ns := testutils.NewNetNS(t)
	run := t.TempDir()
	file := filepath.Join(run, "blue")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	require.NoError(t, unix.Mount(ns.Path(), file, "", unix.MS_BIND, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(file, unix.MNT_DETACH)) })
	require.NoError(t, os.WriteFile(filepath.Join(run, "leftover"), nil, 0o644))
	require.NoError(t, unix.Mkfifo(filepath.Join(run, "fifo"), 0o644))

	v, err := New(Config{ProcPath: newFakeProc(t, 100, 4026532000).path, RunNetnsPath: run})
	require.NoError(t, err)
	var named []Namespace
	for _, n := range v.Namespaces() {
		if n.Name != "" {
			named = append(named, n)
		}
	}
	require.Equal(t, []Namespace{{Inode: ns.Inode(), Path: file, Name: "blue"}}, named)
}

func TestRealProcesses(t *testing.T) {
	ns := testutils.NewNetNS(t)
	cmd := exec.Command("sleep", "60")
	require.NoError(t, ns.Start(cmd))
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
	})
	v, err := New(Config{RunNetnsPath: t.TempDir()})
	require.NoError(t, err)
	require.True(t, v.Namespaces()[0].Own)
	for _, n := range v.Namespaces() {
		if n.Inode == ns.Inode() {
			require.Equal(t, cmd.Process.Pid, n.PID)
			return
		}
	}
	require.Fail(t, "the namespace of the process was not found")
}

func TestProcessesThatCannotBeReadAreCounted(t *testing.T) {
	if os.Getenv("PLUMB_NODEVIEW_UNPRIVILEGED") != "" {
		v, err := New(Config{RunNetnsPath: "no-such-directory"})
		require.NoError(t, err)
		require.NotZero(t, v.Unreadable())
		require.Less(t, v.Unreadable(), v.Processes(), "its own process is readable")
		require.Len(t, v.Namespaces(), 1)
		return
	}
	testutils.SkipUnlessRoot(t)
	// The same test again, as a user who owns no other process here. Its binary
	// is copied to where that user may run it.
	dir, err := os.MkdirTemp("", "plumb-nodeview")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	binary, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	copied := filepath.Join(dir, "test")
	require.NoError(t, os.WriteFile(copied, binary, 0o755))
	cmd := exec.Command(copied, "-test.run=^"+t.Name()+"$", "-test.count=1")
	cmd.Dir = dir
	cmd.Env = []string{"PLUMB_NODEVIEW_UNPRIVILEGED=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "PASS")
}

func BenchmarkRefresh500Processes(b *testing.B) {
	p := newFakeProc(b, 100, 4026532000)
	for i := range 500 {
		ns, cgroup := uint32(100), inHost
		if i%2 == 0 {
			ns, cgroup = uint32(200+i%220), inPodA
		}
		p.process(1000+i, ns, cgroup)
	}
	v := p.view()
	b.ReportAllocs()
	for b.Loop() {
		if err := v.Refresh(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRefreshThisMachine(b *testing.B) {
	v, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := v.Refresh(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(v.Processes()), "processes")
}
