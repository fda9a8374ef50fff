// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/agent/hostclock"
	"github.com/plumb-dev/plumb/agent/ledger"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/internal/testutils"
)

// The test binary run with these in its environment is an agent that hands over
// episodes as fast as it can and says each id once the spool has it.
const (
	childSpool = "PLUMB_UPLINK_TEST_SPOOL"
	childURL   = "PLUMB_UPLINK_TEST_URL"
	childRun   = "PLUMB_UPLINK_TEST_RUN"
)

func childConfig(dir, url, run string) Config {
	return Config{
		Endpoints: []string{url}, CAFile: filepath.Join(filepath.Dir(dir), "ca.pem"), TokenFile: filepath.Join(filepath.Dir(dir), "token"),
		Source: ledger.New(), Clock: hostclock.New(), BootID: "kernel/" + run, SpoolDir: dir,
		Interval: 20 * time.Millisecond, ReconnectSpread: 20 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

func child(dir string) int {
	run := os.Getenv(childRun)
	c, err := New(childConfig(dir, os.Getenv(childURL), run))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	go func() { _ = c.Run(context.Background()) }()
	for i := 0; ; i++ {
		id := fmt.Sprintf("%s-%d", run, i)
		c.Episode(episode(id))
		// Episode does not wait for a slow disk, which a busy test machine may have.
		<-c.episodes.disk.kick()
		if c.episodes.count().spoolErrors > 0 {
			fmt.Println("the spool fails")
			return 1
		}
		fmt.Println(id)
	}
}

// runChildUntilKilled returns the ids that the child said before kill -9.
func runChildUntilKilled(t *testing.T, dir, url, run string, after time.Duration) []string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childSpool+"="+dir, childURL+"="+url, childRun+"="+run)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	killer := make(chan struct{})
	var ids []string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if len(ids) == 0 {
			go func() {
				defer close(killer)
				<-time.After(after)
				_ = cmd.Process.Kill()
			}()
		}
		ids = append(ids, lines.Text())
	}
	require.NotEmpty(t, ids)
	<-killer
	require.Error(t, cmd.Wait(), "killed")
	return ids
}

func TestNoEpisodeIsLostToKill9(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	dir := filepath.Join(base, "spool")
	ca := newCA(t, around(time.Now(), 24*time.Hour))
	server := newServer(t, ca.issue(t, around(time.Now(), time.Hour)))
	require.NoError(t, os.WriteFile(filepath.Join(base, "ca.pem"), ca.pem(), 0o600))
	writeToken(t, filepath.Join(base, "token"), makeToken("uid-1", "s"))
	// Now and then the acknowledgement gets lost, or the server fails before it
	// has taken anything.
	server.answer = func(r *evidencev1.PushRequest) (*evidencev1.PushResponse, error, bool) {
		switch rand.N(6) {
		case 0:
			server.take(r, "")
			return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("after")), true
		case 1:
			return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("before")), true
		}
		return nil, nil, false
	}
	var said []string
	for run := range 8 {
		if run%3 == 1 {
			server.stop() // this run can hand over nothing
		}
		said = append(said, runChildUntilKilled(t, dir, server.url(), fmt.Sprint(run), rand.N(150*time.Millisecond))...)
		if run%3 == 1 {
			server.start()
		}
	}
	c, err := New(childConfig(dir, server.url(), "last"))
	require.NoError(t, err)
	left := c.episodes.waiting(0)
	runClient(t, c)
	testutils.Eventually(t, 20*time.Second, "an empty spool", func() bool { return c.episodes.waiting(0) == 0 })
	require.Zero(t, c.Status().Endpoints[0].DroppedEpisodes)
	missing, twice := 0, 0
	for _, id := range said {
		switch server.times(id) {
		case 0:
			missing++
		case 1:
		default:
			twice++
		}
	}
	t.Logf("%d episodes handed over in 8 runs, %d left for the last, %d arrived more than once", len(said), left, twice)
	require.Zero(t, missing)
	require.NotZero(t, left, "no run left anything behind; the test proves nothing")
	// Those of former runs keep their own boot id.
	for _, r := range server.got() {
		for _, e := range r.GetBatch().GetEpisodes() {
			var run, i string
			_, err := fmt.Sscanf(e.GetId(), "%1s-%s", &run, &i)
			require.NoError(t, err)
			require.Equal(t, "kernel/"+run, e.GetBootId())
		}
	}
}
