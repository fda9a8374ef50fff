// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package machine_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/testutils"
	"github.com/plumb-dev/plumb/internal/testutils/machine"
)

func TestMain(m *testing.M) {
	machine.Main(m, map[string]machine.Role{
		"echo": func(args []string) error {
			fmt.Println("echo", args[0])
			select {}
		},
		"fail": func([]string) error { return errors.New("as it was told") },
		"file": func([]string) error {
			_, err := os.NewFile(3, "inherited").WriteString("by the role")
			return err
		},
		"much": func([]string) error {
			fmt.Println("begin", strings.Repeat("x", 100<<10), "end")
			return nil
		},
		"web": func(args []string) error {
			fmt.Println("listening soon")
			mux := http.NewServeMux()
			mux.HandleFunc("/good", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "fine") })
			return http.ListenAndServe(args[0], mux)
		},
	})
}

func netns(t *testing.T, pid int) string {
	t.Helper()
	name, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	require.NoError(t, err)
	return name
}

func requireGone(t *testing.T, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		require.NotZero(t, pid)
		testutils.Eventually(t, 5*time.Second, "the process is gone, and waited for", func() bool {
			return errors.Is(unix.Kill(pid, 0), unix.ESRCH)
		})
	}
}

func TestMachinesReachEachOther(t *testing.T) {
	a, b := machine.New(t, "a"), machine.New(t, "b")
	machine.Veth(a, "eth0", b, "eth0")
	a.IP("addr add 10.7.0.1/24 dev eth0")
	b.IP("addr add 10.7.0.2/24 dev eth0")
	require.Contains(t, a.Run("ping", "-c", "1", "-W", "5", "10.7.0.2"), " 0% packet loss")
	a.Sysctl("net.ipv4.ip_forward", "1")
	require.Equal(t, "1\n", a.Run("cat", "/proc/sys/net/ipv4/ip_forward"))
	require.Equal(t, "0\n", b.Run("cat", "/proc/sys/net/ipv4/ip_forward"))
	require.Equal(t, "told", a.Feed("told", "cat"))

	b.StartRole("web", "", "web", "10.7.0.2:80")
	testutils.Eventually(t, 5*time.Second, "it answers", func() bool {
		body, ok := a.Get("http://10.7.0.2/good")
		return ok && body == "fine"
	})
	_, ok := a.Get("http://10.7.0.2/bad")
	require.False(t, ok, "status 404")
	why, ok := a.Get("http://10.7.0.1/good")
	require.False(t, ok)
	require.Contains(t, why, "connection refused")
}

func TestProcessesOfAMachine(t *testing.T) {
	m := machine.New(t, "a")
	p := m.StartRole("echo", "", "echo", "hello")
	p.Says(5*time.Second, "echo hello")
	require.Equal(t, netns(t, m.PID()), netns(t, p.PID()))

	m.IP("netns add pod")
	inside := m.StartRole("echo in pod", "pod", "echo", "pod")
	inside.Says(5*time.Second, "echo pod")
	require.NotEqual(t, netns(t, m.PID()), netns(t, inside.PID()))

	failing := m.StartRole("fail", "", "fail")
	require.ErrorContains(t, failing.Wait(), "exit status 1")
	require.Contains(t, failing.Output(), "as it was told")

	much := m.StartRole("much", "", "much")
	require.NoError(t, much.Wait())
	require.True(t, strings.HasPrefix(much.Output(), "begin x"), "nothing of the output is cut off")

	file, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	defer file.Close()
	program := m.RoleCommand("", "file")
	program.ExtraFiles = []*os.File{file}
	require.NoError(t, m.Launch("file", program).Wait())
	written, err := os.ReadFile(file.Name())
	require.NoError(t, err)
	require.Equal(t, "by the role", string(written))

	require.ErrorContains(t, m.Start("sleep", "sleep", "1000").Stop(), "signal: terminated")

	require.True(t, p.Running())
	pid := p.PID()
	p.Kill()
	require.False(t, p.Running())
	requireGone(t, pid)
}

func TestAMachineEndsWithItsTest(t *testing.T) {
	var first, program int
	t.Run("inner", func(t *testing.T) {
		m := machine.New(t, "a")
		p := m.StartRole("echo", "", "echo", "hello")
		p.Says(5*time.Second, "echo hello")
		first, program = m.PID(), p.PID()
	})
	requireGone(t, first, program)
}

// A broken test is one that has failed; its logs and cleanups are kept.
type broken struct {
	testing.TB
	log      bytes.Buffer
	cleanups []func()
}

func (b *broken) Failed() bool                    { return true }
func (b *broken) Logf(format string, args ...any) { fmt.Fprintf(&b.log, format, args...) }
func (b *broken) Cleanup(fn func())               { b.cleanups = append(b.cleanups, fn) }

func TestAFailedTestShowsWhatItsProgramsWrote(t *testing.T) {
	b := &broken{TB: t}
	m := machine.New(b, "a")
	m.StartRole("greeter", "", "echo", "hello").Says(5*time.Second, "echo hello")
	require.NoError(t, m.StartRole("writer", "", "much").Wait())
	first := m.PID()
	for _, clean := range slices.Backward(b.cleanups) {
		clean()
	}
	require.Contains(t, b.log.String(), "── greeter on a ──\necho hello\n")
	require.Contains(t, b.log.String(), "── writer on a ──\n…xxx")
	require.Contains(t, b.log.String(), "x end\n")
	requireGone(t, first)
}
