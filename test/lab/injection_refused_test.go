// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A good scenario, which each of the tests spoils. It would run for a second.
const spoilable = `apiVersion: plumb.dev/v1alpha1
kind: Scenario
metadata: {name: spoiled}
spec:
  description: Not fit to run.
  duration: 1s
  settle: 1s
  cloud: aws
  overlay: {kind: vxlan, mtu: 1450, lowerDevice: true}
  nodes:
    - {name: n1, zone: a}
    - {name: n2, zone: b}
  faults:
    - {at: 0s, kind: path-cut, between: [a, b]}
`

func TestWhatIsUnusableIsSaidInOneLine(t *testing.T) {
	bin := binaries(t)
	tests := []struct {
		name     string
		old, new string
		bin      string
		// says is the line on standard error, as a regular expression; FILE is the file.
		says string
	}{
		{"an unknown field", "  duration: 1s", "  durations: 1s", "", `FILE:6:3: unknown field "durations": .*`},
		{"an unknown field of a fault", "kind: path-cut,", "kind: path-cut, colour: red,", "", `FILE:14:32: unknown field "colour": .*`},
		{"an unknown fault", "path-cut", "path-cutt", "", `FILE:14:22: fault 0 has an unknown kind "path-cutt": .*path-cut.*`},
		{"an unknown node", "between: [a, b]", "node: n7", "", `FILE:14:38: .*"n7".*`},
		{"a parameter of another kind", "between: [a, b]", "ratio: 0.1", "", `FILE:14:32: ratio of fault 0 does not belong to path-cut: .*`},
		{"faults that contradict each other", "b]}", "b]}\n    - {at: 0s, kind: path-loss, ratio: 0.1}", "", `FILE:15:7: fault 1 \(line 15\) contradicts fault 0 \(line 14\): .*`},
		{"an MTU that the kernel would clamp", "mtu: 1450", "mtu: 1451", "", `FILE:9:31: .*1451.*`},
		{"an impossible MTU", "kind: path-cut, between: [a, b]", "kind: pod-mtu, mtu: 70000", "", `FILE:14:36: .*70000.*`},
		{"objects, which the product does not take yet", "  settle: 1s", "  settle: 1s\n  objects: cluster.yaml", "", `FILE.*objects.*`},
		{"imds without a cloud", "path-cut, between: [a, b]", "imds, mode: timeout", "", `FILE:14:7: imds: cloud: none has no metadata server; name a cloud`},
		{"a hop limit that the cloud has not", "path-cut, between: [a, b]", "imds, mode: hop-limit", "", `FILE:14:7: imds: only aws limits the hops .*`},
		{"no YAML", "spec:", "spec: [", "", `FILE:\d+:\d+: .*`},
		{"a program that is missing", "", "", "/nowhere", `find plumb-aggregator: it is in none of /nowhere; .*make build.*`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(spoilable, tt.old, tt.new, 1)
			switch {
			case strings.Contains(tt.says, "no metadata server"):
				text = strings.Replace(text, "cloud: aws", "cloud: none", 1)
			case strings.Contains(tt.says, "limits the hops"):
				text = strings.Replace(text, "cloud: aws", "cloud: gcp", 1)
			}
			if tt.old != "" {
				require.NotEqual(t, spoilable, text)
			}
			if tt.bin == "" {
				tt.bin = bin
			}
			file := writeScenario(t, text)
			refused(t, tt.says, file, "--bin", tt.bin, "run", file, "--json")
			refused(t, tt.says, file, "--bin", tt.bin, "run", file)
		})
	}
	t.Run("a file that is not there", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "none.yaml")
		refused(t, `FILE: the file cannot be read: .*`, file, "run", file, "--json")
	})
	t.Run("a built-in scenario that is none", func(t *testing.T) {
		refused(t, `.*"no-such-scenario".*|.*no-such-scenario.*`, "", "run", "no-such-scenario", "--json")
	})
	t.Run("an unknown flag", func(t *testing.T) {
		refused(t, `unknown flag: --jsno`, "", "run", "demo", "--jsno")
	})
}

// refused runs plumb-lab on what it must turn down.
func refused(t *testing.T, says, file string, args ...string) {
	t.Helper()
	temp := t.TempDir()
	cmd := exec.Command(filepath.Join(binaries(t), "plumb-lab"), args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	require.True(t, errors.As(err, &exit), "it must fail: %v, %s%s", err, &stdout, &stderr)
	require.Equal(t, 2, exit.ExitCode(), stderr.String())
	if strings.Contains(strings.Join(args, " "), "--json") {
		require.Empty(t, stdout.String())
	}
	require.Regexp(t, regexp.MustCompile("^plumb-lab: "+strings.ReplaceAll(says, "FILE", regexp.QuoteMeta(file))+"\n$"), stderr.String())
	require.Equal(t, 1, strings.Count(stderr.String(), "\n"), "one line: %s", &stderr)
	require.Less(t, time.Since(began), 5*time.Second)
	left, err := filepath.Glob(filepath.Join(temp, "plumb-lab", "*"))
	require.NoError(t, err)
	require.Empty(t, left)
}
