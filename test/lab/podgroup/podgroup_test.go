// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package podgroup_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils"
	"github.com/plumb-dev/plumb/test/lab/podgroup"
)

type owner struct{ details []any }

func (o *owner) Own(_ string, detail any) error {
	o.details = append(o.details, detail)
	return nil
}

func TestAProcessThatJoinsIsNamedByThePodsUID(t *testing.T) {
	testutils.SkipUnlessRoot(t)
	o := &owner{}
	g, err := podgroup.New("/sys/fs/cgroup", o)
	require.NoError(t, err)
	require.Regexp(t, regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`), g.UID)
	files, err := g.Open()
	require.NoError(t, err)
	require.NotEmpty(t, files)
	cmd := exec.Command("sh", "-c", "echo 0 >&3; cat /proc/self/cgroup")
	cmd.ExtraFiles = files[:1]
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), ":/kubepods/pod"+g.UID+"/lab\n")
	for _, f := range files {
		require.NoError(t, f.Close())
	}
	for _, d := range o.details {
		raw, err := json.Marshal(d)
		require.NoError(t, err)
		require.NoError(t, podgroup.Remover(raw))
		require.NoDirExists(t, d.(string))
		require.NoError(t, podgroup.Remover(raw), "gone already is fine")
	}
}

func TestHierarchiesAreFoundAsTheyAreMounted(t *testing.T) {
	testutils.SkipUnlessRoot(t)
	tests := []struct {
		name  string
		files []string
		dirs  int
		cpu   string
	}{
		{name: "cgroup v1 with a unified hierarchy beside it", files: []string{"unified/cgroup.procs", "cpu/cgroup.procs", "cpu/cpu.shares", "pids/cgroup.procs"}, dirs: 2, cpu: "cpu"},
		{name: "cgroup v1 only", files: []string{"pids/cgroup.procs", "cpu,cpuacct/cgroup.procs", "cpu,cpuacct/cpu.shares"}, dirs: 2, cpu: "cpu,cpuacct"},
		{name: "no cpu controller", files: []string{"unified/cgroup.procs"}, dirs: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			for _, f := range tt.files {
				require.NoError(t, os.MkdirAll(filepath.Join(root, filepath.Dir(f)), 0o755))
				require.NoError(t, os.WriteFile(filepath.Join(root, f), nil, 0o600))
			}
			o := &owner{}
			g, err := podgroup.New(root, o)
			require.NoError(t, err)
			require.Len(t, o.details, tt.dirs)
			if tt.cpu == "" {
				require.Empty(t, g.CPU())
			} else {
				require.Equal(t, filepath.Join(root, tt.cpu, "kubepods", "pod"+g.UID, "lab"), g.CPU())
			}
		})
	}
	_, err := podgroup.New(t.TempDir(), &owner{})
	require.ErrorContains(t, err, "no hierarchy")
}

func TestOnlyAPodsCgroupIsRemoved(t *testing.T) {
	dir := t.TempDir()
	raw, err := json.Marshal(dir)
	require.NoError(t, err)
	require.ErrorContains(t, podgroup.Remover(raw), "it is no pod's")
	require.DirExists(t, dir)
}
