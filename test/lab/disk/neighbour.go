// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// neighbourFileBytes is how far the neighbour's file grows; then it is written
	// over, so that it never fills the disk.
	neighbourFileBytes = 8 << 20

	// neighbourWorkers write at the same time, each to its own file: a single one
	// would wait as long as etcd does, and take no more than half of a capped disk.
	neighbourWorkers = 4

	// maxNeighbourRate bounds the rate; no disk of this package does as much.
	maxNeighbourRate = 100_000
)

// A NeighbourConfig says what the noisy neighbour does.
type NeighbourConfig struct {
	// Dir is a directory on the disk. It is made when it is missing; what the
	// neighbour has made is removed at the end.
	Dir string
	// Rate is writes with fsync(2) a second, over all workers; 0: none until it is
	// set. A disk that is too slow for it gets as many as it takes.
	Rate int
	// Bytes is the size of one write, 1 to 1 MiB; 0 is 16 KiB.
	Bytes int
}

// NeighbourStats are what the neighbour has done and seen.
type NeighbourStats struct {
	Writes uint64 `json:"writes"`
	Errors uint64 `json:"errors"`
}

// Args are the arguments of NeighbourRole.
func (c NeighbourConfig) Args() []string {
	return []string{"-dir", c.Dir, fmt.Sprintf("-rate=%d", c.Rate), fmt.Sprintf("-bytes=%d", c.Bytes)}
}

func parseNeighbour(args []string) (NeighbourConfig, error) {
	var c NeighbourConfig
	flags := flag.NewFlagSet("neighbour", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&c.Dir, "dir", "", "")
	flags.IntVar(&c.Rate, "rate", 0, "")
	flags.IntVar(&c.Bytes, "bytes", 0, "")
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	if c.Bytes == 0 {
		c.Bytes = 16 << 10
	}
	if !filepath.IsAbs(c.Dir) || c.Bytes < 1 || c.Bytes > 1<<20 || flags.NArg() > 0 {
		return c, fmt.Errorf("arguments %q: a directory by its absolute path and 1 to %d bytes are needed", args, 1<<20)
	}
	return c, checkRate(c.Rate)
}

func checkRate(rate int) error {
	if rate < 0 || rate > maxNeighbourRate {
		return fmt.Errorf("rate is %d; it can be 0 to %d writes a second", rate, maxNeighbourRate)
	}
	return nil
}

// NeighbourRole writes and syncs on the file system of another, until its input
// ends, SIGTERM or SIGINT. It takes {"rate":200} as lines, which it answers with the
// same, and {"stats":true}, which it answers with {"neighbour":…}. fsync(2), unlike
// the fdatasync(2) of etcd, also writes the time stamp, so each of its calls makes
// the journal commit.
func NeighbourRole(args []string) error {
	cfg, err := parseNeighbour(args)
	if err != nil {
		return fmt.Errorf("neighbour: %w", err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	made, err := makeDirectory(cfg.Dir)
	if err != nil {
		return fmt.Errorf("neighbour: %w", err)
	}
	if made {
		defer os.Remove(cfg.Dir)
	}
	n := &neighbour{cfg: cfg, pace: newThrottle(), idle: make(chan struct{})}
	n.setRate(cfg.Rate)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var workers sync.WaitGroup
	for range neighbourWorkers {
		file, err := os.CreateTemp(cfg.Dir, "neighbour-")
		if err != nil {
			return fmt.Errorf("neighbour: %w", err)
		}
		defer os.Remove(file.Name())
		defer file.Close()
		workers.Add(1)
		go func() {
			defer workers.Done()
			n.work(ctx, file)
		}()
	}
	err = n.answer(readLines(os.Stdin), signals)
	cancel()
	n.setRate(maxNeighbourRate) // wakes those that wait for their turn
	workers.Wait()
	return err
}

type neighbour struct {
	cfg  NeighbourConfig
	pace *throttle

	writes, errors atomic.Uint64

	mu sync.Mutex
	// idle is closed while there is a rate.
	idle    chan struct{}
	writing bool
}

func (n *neighbour) setRate(rate int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case rate > 0 && !n.writing:
		close(n.idle)
	case rate == 0 && n.writing:
		n.idle = make(chan struct{})
	}
	n.writing = rate > 0
	n.pace.set(Settings{IOPS: rate})
}

func (n *neighbour) work(ctx context.Context, file *os.File) {
	data := make([]byte, n.cfg.Bytes)
	for i := range data {
		data[i] = byte(i)
	}
	var offset int64
	for {
		n.mu.Lock()
		idle := n.idle
		n.mu.Unlock()
		select {
		case <-idle:
		case <-ctx.Done():
			return
		}
		n.pace.wait(false)
		if ctx.Err() != nil {
			return
		}
		_, err := file.WriteAt(data, offset)
		if err == nil {
			err = file.Sync()
		}
		if err != nil {
			n.errors.Add(1)
		} else {
			n.writes.Add(1)
		}
		if offset += int64(len(data)); offset+int64(len(data)) > neighbourFileBytes/neighbourWorkers {
			offset = 0
		}
	}
}

func (n *neighbour) answer(lines <-chan []byte, signals <-chan os.Signal) error {
	out := json.NewEncoder(os.Stdout)
	for {
		select {
		case <-signals:
			return nil
		case line, more := <-lines:
			if !more {
				return nil
			}
			if err := out.Encode(n.command(line)); err != nil {
				return fmt.Errorf("neighbour: report: %w", err)
			}
		}
	}
}

func (n *neighbour) command(line []byte) event {
	if string(line) == askStats {
		return event{Neighbour: &NeighbourStats{Writes: n.writes.Load(), Errors: n.errors.Load()}}
	}
	var asked struct {
		Rate *int `json:"rate"`
	}
	err := strict(line, &asked)
	if err == nil && asked.Rate == nil {
		err = errors.New("it names no rate")
	}
	if err == nil {
		err = checkRate(*asked.Rate)
	}
	if err != nil {
		return event{Error: fmt.Sprintf("line %s: %v; a line is like {\"rate\":200}", line, err)}
	}
	n.setRate(*asked.Rate)
	return event{Rate: asked.Rate}
}

// A Neighbour is a noisy writer in a node, seen from the lab. It is safe for
// concurrent use.
type Neighbour struct{ *remote }

// StartNeighbour starts a noisy writer; start starts NeighbourRole, in a cgroup that
// is not etcd's.
func StartNeighbour(ctx context.Context, cfg NeighbourConfig, start StartFunc) (*Neighbour, error) {
	r, err := startRemote("neighbour at "+cfg.Dir, cfg.Args(), start)
	if err != nil {
		return nil, err
	}
	n := &Neighbour{r}
	if err := n.SetRate(ctx, cfg.Rate); err != nil {
		return nil, errors.Join(err, r.Stop())
	}
	return n, nil
}

// SetRate changes how often it writes, a second; 0 makes it quiet.
func (n *Neighbour) SetRate(ctx context.Context, rate int) error {
	answer, err := n.ask(ctx, fmt.Appendf(nil, `{"rate":%d}`, rate))
	if err != nil {
		return err
	}
	if answer.Rate == nil || *answer.Rate != rate {
		return fmt.Errorf("%s: rate %d was not set: %s", n.what, rate, answer.Error)
	}
	return nil
}

// Stats reads its counters.
func (n *Neighbour) Stats(ctx context.Context) (NeighbourStats, error) {
	answer, err := n.ask(ctx, []byte(askStats))
	if err != nil {
		return NeighbourStats{}, err
	}
	if answer.Neighbour == nil {
		return NeighbourStats{}, fmt.Errorf("%s: it gave no counters: %s", n.what, answer.Error)
	}
	return *answer.Neighbour, nil
}
