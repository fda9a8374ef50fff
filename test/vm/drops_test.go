// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils"
)

// dropTests are those of agent/probe/oversize that need no packet filter: what
// is dropped where, and what must stay silent.
const dropTests = "TestVXLANWithDFOverAnUnderlayThatIsTooSmall|TestVethPeersThatDisagree|TestABridgePortThatIsTooSmall|" +
	"TestPathMTUDiscoveryThatWorksIsSilent|TestTheAdaptationHookComesWithTheFirstDropAndGoes"

// That a hook is active says nothing of what comes through it: layouts, reasons
// and function names differ between kernels. So the probe's own tests in
// namespaces run on the older ones too.
func TestDropsAreNamedOnOlderKernels(t *testing.T) {
	needQEMU(t)
	testutils.SkipUnlessRoot(t)
	program := filepath.Join(t.TempDir(), "oversize.test")
	build := exec.Command("go", "test", "-c", "-o", program, "../../agent/probe/oversize")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	var tools []string
	for _, name := range []string{"ip", "bridge", "sysctl", "ping", "ethtool", "sh", "tr", "grep"} {
		path, err := exec.LookPath(name)
		require.NoError(t, err)
		tools = append(tools, path)
	}
	guest := guestInit(t)
	cache, err := cacheDir()
	require.NoError(t, err)
	passed := regexp.MustCompile(`(?m)^--- PASS: `)
	for _, line := range kernels() {
		t.Run(line, func(t *testing.T) {
			k := kernelOf(t, cache, line)
			begin := time.Now()
			output, status, err := k.run(context.Background(), guest, job{
				program: program, tools: tools, modules: modules(),
				args:    []string{"-test.run", "^(" + dropTests + ")$", "-test.v", "-test.timeout", "150s"},
				timeout: 4 * time.Minute,
			})
			require.NoError(t, err)
			t.Logf("kernel %s, %.0f s", k.release, time.Since(begin).Seconds())
			require.Zero(t, status, "%s", output)
			require.Len(t, passed.FindAllString(output, -1), 5, "%s", output)
		})
	}
}
