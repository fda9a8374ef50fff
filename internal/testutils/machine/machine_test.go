// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package machine_test

import (
	"errors"
	"fmt"
	"os"
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
			fmt.Println("echo", args[0], os.Getpid())
			select {}
		},
		"fail": func([]string) error { return errors.New("as it was told") },
	})
}

func namespaces(t *testing.T, pid int) (out [2]string) {
	t.Helper()
	for i, kind := range []string{"net", "pid"} {
		var err error
		out[i], err = os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		require.NoError(t, err)
	}
	return out
}

func TestAMachineIsANodeOfItsOwn(t *testing.T) {
	a, b := machine.New(t, "a"), machine.New(t, "b")
	machine.Veth(a, "eth0", b, "eth0")
	a.IP("addr add 10.7.0.1/24 dev eth0")
	b.IP("addr add 10.7.0.2/24 dev eth0")
	a.Run("ping", "-c", "1", "-W", "5", "10.7.0.2")

	p := a.StartRole("echo", "", "echo", "hello")
	p.Says(5*time.Second, "echo hello")
	require.Equal(t, namespaces(t, a.PID()), namespaces(t, p.PID()))
	for i, own := range namespaces(t, os.Getpid()) {
		require.NotEqual(t, own, namespaces(t, a.PID())[i])
		require.NotEqual(t, namespaces(t, b.PID())[i], namespaces(t, a.PID())[i])
	}
	require.NotContains(t, a.Run("ls", "/proc"), fmt.Sprint(os.Getpid()), "a machine must not see processes outside")

	a.IP("netns add pod")
	inside := a.StartRole("echo in pod", "pod", "echo", "pod")
	inside.Says(5*time.Second, "echo pod")
	require.NotEqual(t, namespaces(t, a.PID())[0], namespaces(t, inside.PID())[0])

	failing := a.StartRole("fail", "", "fail")
	require.Error(t, failing.Wait())
	require.Contains(t, failing.Output(), "as it was told")
	require.True(t, p.Running())
	pid := p.PID()
	p.Kill()
	require.False(t, p.Running())
	testutils.Eventually(t, 5*time.Second, "the program is gone, and waited for", func() bool {
		return errors.Is(unix.Kill(pid, 0), unix.ESRCH)
	})
}

func TestAMachineEndsWithItsTest(t *testing.T) {
	var init, program int
	t.Run("inner", func(t *testing.T) {
		m := machine.New(t, "a")
		p := m.StartRole("echo", "", "echo", "hello")
		p.Says(5*time.Second, "echo hello")
		init, program = m.PID(), p.PID()
	})
	for _, pid := range []int{init, program} {
		testutils.Eventually(t, 5*time.Second, "the machine is gone", func() bool {
			return errors.Is(unix.Kill(pid, 0), unix.ESRCH)
		})
	}
}
