// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils"
)

const (
	key1 = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=" // 32 bytes
	key2 = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWY=" // 32 others

	goodFile = `apiVersion: plumb.dev/v1alpha1
kind: Nodes
cluster: lab
audience: plumb
signingKey: ` + key1 + `
nodes:
  - {name: n2, uid: u2}
  - name: n1.example
    uid: u1
    zone: z1
    pool: p
    instanceType: m5.large
    kernel: 6.18.0
    image: Debian 13
`
)

func write(tb testing.TB, text string) string {
	path := filepath.Join(tb.TempDir(), "nodes.yaml")
	require.NoError(tb, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestNodesFile(t *testing.T) {
	n, err := LoadNodes(write(t, goodFile))
	require.NoError(t, err)
	require.Equal(t, []Node{
		{Name: "n1.example", UID: "u1", Zone: "z1", Pool: "p", InstanceType: "m5.large", Kernel: "6.18.0", Image: "Debian 13"},
		{Name: "n2", UID: "u2"},
	}, n.All())
	require.Equal(t, "lab", n.Cluster())
	n.All()[0].Name = "changed"
	require.Equal(t, "n1.example", n.All()[0].Name, "callers get a copy")
}

func TestNodesFileThatIsRefused(t *testing.T) {
	for _, tc := range []struct{ name, from, to, says string }{
		{"an unknown field", "cluster: lab", "clutser: lab", "line 3: field clutser is not known"},
		{"an unknown field of a node", "    pool: p", "    pol: p", "line 11: field pol is not known"},
		{"a field twice", "kind: Nodes", "kind: Nodes\ncluster: x", `line 4: mapping key "cluster" already defined`},
		{"another version", "v1alpha1", "v9", `line 1: apiVersion is "plumb.dev/v9", must be "plumb.dev/v1alpha1"`},
		{"another kind", "kind: Nodes", "kind: Pods", `line 2: kind is "Pods", must be "Nodes"`},
		{"no cluster", "cluster: lab\n", "", "cluster is missing"},
		{"no audience", "audience: plumb", "audience: ''", "line 4: audience is missing"},
		{"a key that is not base64", key1, "'***'", "line 5: signingKey is not base64"},
		{"a key too short", key1, "c2hvcnQ=", "line 5: signingKey has 5 bytes, at least 32 are needed"},
		{"a name twice", "name: n1.example", "name: n2", `line 8: node name "n2" is used twice, first on line 7`},
		{"a uid twice", "uid: u1", "uid: u2", `line 8: node uid "u2" is used twice, first on line 7`},
		{"a node without uid", "uid: u2", "uid: ''", `line 7: node "n2": uid is missing`},
		{"a node without name", "name: n2", "name: ''", `line 7: node "": name is missing`},
		{"a control character", "zone: z1", `zone: "z\n1"`, "zone has control characters"},
		{"a name too long", "name: n2", "name: " + strings.Repeat("n", 254), "has 254 bytes, at most 253"},
		{"broken YAML", "nodes:", "nodes: [", "line "},
		{"a list where a text belongs", "cluster: lab", "cluster: [a]", "line 3: cannot unmarshal"},
		{"two documents", "  - {name: n2, uid: u2}\n", "  - {name: n2, uid: u2}\n---\nkind: Nodes\n", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			require.Contains(t, goodFile, tc.from)
			path := write(t, strings.Replace(goodFile, tc.from, tc.to, 1))
			_, err := LoadNodes(path)
			require.ErrorContains(t, err, "read nodes file "+path+": ")
			require.ErrorContains(t, err, tc.says)
			require.NotContains(t, err.Error(), "\n")
			require.NotContains(t, err.Error(), "identity.")
			require.NotContains(t, err.Error(), key1)
		})
	}
	t.Run("no nodes", func(t *testing.T) {
		_, err := LoadNodes(write(t, goodFile[:strings.Index(goodFile, "nodes:")]+"nodes: []\n"))
		require.ErrorContains(t, err, "line 6: nodes is empty")
	})
	t.Run("an empty file", func(t *testing.T) {
		_, err := LoadNodes(write(t, ""))
		require.ErrorContains(t, err, "it is empty")
	})
	t.Run("a file too large", func(t *testing.T) {
		_, err := LoadNodes(write(t, goodFile+strings.Repeat("#", MaxFileBytes)))
		require.ErrorContains(t, err, "larger than 8 MiB")
	})
	t.Run("a missing file", func(t *testing.T) {
		_, err := LoadNodes("/nowhere/nodes.yaml")
		require.ErrorIs(t, err, os.ErrNotExist)
	})
	t.Run("a directory", func(t *testing.T) {
		_, err := LoadNodes(t.TempDir())
		require.ErrorContains(t, err, "it is a directory")
	})
}

func TestReloadKeepsTheOldNodesWhenTheNewFileIsBad(t *testing.T) {
	path := write(t, goodFile)
	n, err := LoadNodes(path)
	require.NoError(t, err)
	token, err := n.Mint("n2", time.Hour)
	require.NoError(t, err)

	require.NoError(t, os.WriteFile(path, []byte("kind: nonsense"), 0o600))
	require.ErrorContains(t, n.Reload(), "keep the earlier nodes: read nodes file")
	_, err = n.Authenticate(context.Background(), token)
	require.NoError(t, err)

	require.NoError(t, os.WriteFile(path, []byte(strings.Replace(goodFile, key1, key2, 1)), 0o600))
	require.NoError(t, n.Reload())
	_, err = n.Authenticate(context.Background(), token)
	require.ErrorIs(t, err, ErrSignature, "a new key ends the old tokens")
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func TestRunNoticesChanges(t *testing.T) {
	path := write(t, goodFile)
	out := &syncBuffer{}
	n, err := New(Config{Path: path, Log: slog.New(slog.NewTextHandler(out, nil))})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); n.Run(ctx, time.Millisecond) }()
	defer func() { cancel(); <-done }()

	replace := func(text string) {
		next := path + ".new"
		require.NoError(t, os.WriteFile(next, []byte(text), 0o600))
		require.NoError(t, os.Rename(next, path))
	}
	replace(strings.Replace(goodFile, "name: n2", "name: n3", 1))
	testutils.Eventually(t, 5*time.Second, "the new node is known", func() bool { return n.All()[1].Name == "n3" })
	replace("bad")
	testutils.Eventually(t, 5*time.Second, "the bad file is reported", func() bool { return strings.Contains(out.String(), "cannot read the changed nodes file") })
	require.Equal(t, "n3", n.All()[1].Name)
	replace(goodFile)
	testutils.Eventually(t, 5*time.Second, "the good file is back", func() bool { return n.All()[1].Name == "n2" })
	require.Equal(t, 1, strings.Count(out.String(), "level=ERROR"), "once per change: %s", out)
}

func FuzzNodesFile(f *testing.F) {
	f.Add([]byte(goodFile))
	f.Add([]byte("apiVersion: [\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("nodes: {}"))
	f.Add([]byte("- 1\n"))
	f.Add([]byte(strings.Replace(goodFile, "u2", "u1", 1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := parse(data)
		if err != nil {
			require.NotContains(t, err.Error(), "\n")
			return
		}
		require.GreaterOrEqual(t, len(got.key), MinKeyBytes)
		require.NotEmpty(t, got.nodes)
		require.Len(t, got.byName, len(got.nodes))
	})
}
