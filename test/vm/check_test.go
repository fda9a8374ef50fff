// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/agent/check"
	"github.com/plumb-dev/plumb/internal/testutils"
	"github.com/plumb-dev/plumb/internal/testutils/sntptest"
)

// kernels are the lines that the test boots, from PLUMB_VM_KERNELS.
func kernels() []string {
	if list := strings.Fields(os.Getenv("PLUMB_VM_KERNELS")); len(list) > 0 {
		return list
	}
	return []string{"6.1", "6.12"}
}

// modules make the guest what a node is: bridge, veth and VXLAN are modules in
// Debian's kernels; what they depend on comes first.
func modules() []string {
	return []string{"llc", "stp", "bridge", "veth", "udp_tunnel", "ip6_udp_tunnel", "vxlan"}
}

func agentBinary(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("PLUMB_BIN")
	if dir == "" {
		dir = filepath.Join("..", "..", "bin")
	}
	path, err := filepath.Abs(filepath.Join(dir, "plumb-agent"))
	require.NoError(t, err)
	_, err = os.Stat(path)
	require.NoError(t, err, "build the binaries first: make build")
	return path
}

// guestInit builds the init of the test machines.
func guestInit(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "guest")
	build := exec.Command("go", "build", "-o", path, "./guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

func needQEMU(t *testing.T) {
	t.Helper()
	for _, program := range []string{"qemu-system-x86_64", "apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(program); err != nil {
			testutils.Skip(t, "needs "+program)
		}
	}
}

// kernelOf fetches the kernel of a line. Where the package sources lack it the test
// is skipped, which fails in CI.
func kernelOf(t *testing.T, cache, line string) kernel {
	t.Helper()
	k, err := fetchKernel(cache, line)
	if errors.Is(err, errNoKernel) {
		testutils.Skip(t, err.Error())
	}
	require.NoError(t, err)
	return k
}

// report parses what plumb-agent --check --json printed; status 1 only means
// that a signal is blind.
func report(t *testing.T, output string, status int) check.Report {
	t.Helper()
	require.Contains(t, []int{0, 1}, status, "%s", output)
	var r check.Report
	start := strings.Index(output, "{")
	require.GreaterOrEqual(t, start, 0, "no report: %s", output)
	require.NoError(t, json.NewDecoder(strings.NewReader(output[start:])).Decode(&r), "%s", output)
	return r
}

// active is the set of signals with an active rung.
func active(r check.Report) []string {
	var names []string
	for _, s := range r.Signals {
		if s.Active {
			names = append(names, s.Signal)
		}
	}
	sort.Strings(names)
	return names
}

// here is what the agent sees on the kernel that runs the tests.
func here(t *testing.T) check.Report {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	args := []string{"--check", "--json"}
	for _, group := range []string{"a", "b"} {
		conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
		require.NoError(t, err)
		go sntptest.Serve(ctx, conn, sntptest.Config{})
		args = append(args, "--time-server", group+"="+conn.LocalAddr().String())
	}
	out, err := exec.Command(agentBinary(t), args...).Output()
	status := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status = exit.ExitCode()
	} else {
		require.NoError(t, err)
	}
	return report(t, string(out), status)
}

func TestTheSameSignalsAreActiveOnOlderKernels(t *testing.T) {
	needQEMU(t)
	testutils.SkipUnlessRoot(t)
	reference := here(t)
	require.NotEmpty(t, active(reference))
	show(t, reference)
	guest := guestInit(t)
	cache, err := cacheDir()
	require.NoError(t, err)
	for _, line := range kernels() {
		t.Run(line, func(t *testing.T) {
			k := kernelOf(t, cache, line)
			begin := time.Now()
			output, status, err := k.run(context.Background(), guest, job{
				program: agentBinary(t),
				args:    []string{"--check", "--json", "--node-name", "guest", "--time-server", "a=127.0.0.1:11123", "--time-server", "b=127.0.0.1:11124"},
				modules: modules(),
				timeout: 3 * time.Minute,
			})
			require.NoError(t, err)
			r := report(t, output, status)
			t.Logf("kernel %s, %.0f s", r.Kernel, time.Since(begin).Seconds())
			show(t, r)
			require.Contains(t, r.Kernel, line)
			require.Subset(t, active(r), active(reference), "a signal that is active on %s is lost on %s", reference.Kernel, r.Kernel)
			for _, s := range r.Signals {
				if s.Active {
					require.NotEmpty(t, s.Rung, s.Signal)
				} else {
					require.NotEmpty(t, s.Why, "%s is blind and does not say why", s.Signal)
				}
			}
		})
	}
}

func show(t *testing.T, r check.Report) {
	t.Helper()
	for _, s := range r.Signals {
		t.Logf("%-10.10s %-18s active=%-5t %s %s", r.Kernel, s.Signal, s.Active, s.Rung, s.Why)
	}
}
