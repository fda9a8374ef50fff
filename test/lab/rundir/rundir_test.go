// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package rundir_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/plumb-dev/plumb/test/lab/rundir"
)

// recorder removes nothing and remembers what it was asked.
type recorder struct {
	asked []string
	fail  error
}

func (r *recorder) removers() map[string]rundir.Remover {
	return map[string]rundir.Remover{"thing": func(detail json.RawMessage) error {
		r.asked = append(r.asked, rundir.Describe(detail))
		return r.fail
	}}
}

// kill leaves a directory as a killed run does: without its lock.
func kill(t *testing.T, temp string, owned ...string) string {
	t.Helper()
	other := t.TempDir()
	d, err := rundir.New(other)
	require.NoError(t, err)
	for _, o := range owned {
		require.NoError(t, d.Own("thing", o))
	}
	dead := filepath.Join(temp, "plumb-lab", d.ID)
	require.NoError(t, os.MkdirAll(filepath.Dir(dead), 0o700))
	require.NoError(t, os.MkdirAll(dead, 0o700))
	list, err := os.ReadFile(d.File("owned"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dead, "owned"), list, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dead, "lock"), nil, 0o600))
	return dead
}

func TestADeadRunIsCleanedUpAndALivingOneIsNot(t *testing.T) {
	temp := t.TempDir()
	dead := kill(t, temp, "first", "second")
	alive, err := rundir.New(temp)
	require.NoError(t, err)
	require.NoError(t, alive.Own("thing", "mine"))
	r := &recorder{}
	n, err := rundir.Sweep(temp, r.removers())
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, []string{"second", "first"}, r.asked, "last first, and nothing of the living run")
	require.NoDirExists(t, dead)
	require.DirExists(t, alive.Path)

	require.NoError(t, alive.Remove(r.removers()))
	require.Equal(t, []string{"second", "first", "mine"}, r.asked)
	require.NoDirExists(t, alive.Path)
	require.NoDirExists(t, filepath.Join(temp, "plumb-lab"), "the last run takes the directory of runs along")
	n, err = rundir.Sweep(temp, r.removers())
	require.NoError(t, err)
	require.Zero(t, n)
}

func TestRunsThatComeAndGoDoNotLoseEachOther(t *testing.T) {
	temp := t.TempDir()
	var group errgroup.Group
	for range 20 {
		group.Go(func() error {
			for range 20 {
				d, err := rundir.New(temp)
				if err != nil {
					return err
				}
				if _, err := rundir.Sweep(temp, nil); err != nil {
					return err
				}
				if _, err := os.Stat(d.File("owned")); err != nil {
					return err
				}
				if err := d.Remove(nil); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	require.NoDirExists(t, filepath.Join(temp, "plumb-lab"))
}

func TestASlowRemoverBlocksNobody(t *testing.T) {
	temp := t.TempDir()
	dead := kill(t, temp, "slow")
	begun, release, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	end := sync.OnceFunc(func() { close(release) })
	defer end()
	go func() {
		n, err := rundir.Sweep(temp, map[string]rundir.Remover{"thing": func(json.RawMessage) error {
			close(begun)
			<-release
			return nil
		}})
		if err == nil && n != 1 {
			err = fmt.Errorf("swept %d runs", n)
		}
		done <- err
	}()
	<-begun
	others := make(chan error, 1)
	go func() {
		others <- func() error {
			d, err := rundir.New(temp)
			if err != nil {
				return err
			}
			r := &recorder{}
			n, err := rundir.Sweep(temp, r.removers())
			if n != 0 || len(r.asked) > 0 {
				err = errors.Join(err, errors.New("swept what another sweeps"))
			}
			return errors.Join(err, d.Remove(nil))
		}()
	}()
	select {
	case err := <-others:
		require.NoError(t, err)
	case <-time.After(5 * time.Second):
		require.FailNow(t, "a run waits for what another sweeps")
	}
	require.DirExists(t, dead)
	end()
	require.NoError(t, <-done)
	require.NoDirExists(t, filepath.Join(temp, "plumb-lab"), "the last one takes the directory of runs along")
}

func TestWhatCannotBeRemovedStaysWrittenDown(t *testing.T) {
	temp := t.TempDir()
	dead := kill(t, temp, "stuck")
	r := &recorder{fail: errors.New("busy")}
	_, err := rundir.Sweep(temp, r.removers())
	require.ErrorContains(t, err, "busy")
	require.DirExists(t, dead)
	r.fail = nil
	_, err = rundir.Sweep(temp, r.removers())
	require.NoError(t, err)
	require.Equal(t, []string{"stuck", "stuck"}, r.asked)
	require.NoDirExists(t, dead)
}

func TestALineCutShortByTheKillIsLeftOut(t *testing.T) {
	temp := t.TempDir()
	dead := kill(t, temp, "whole")
	f, err := os.OpenFile(filepath.Join(dead, "owned"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(`{"kind":"thing","deta`)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	r := &recorder{}
	_, err = rundir.Sweep(temp, r.removers())
	require.NoError(t, err)
	require.Equal(t, []string{"whole"}, r.asked)
}

func TestADirectoryThatOthersCanWriteIsRefused(t *testing.T) {
	temp := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(temp, "plumb-lab"), 0o700))
	require.NoError(t, os.Chmod(filepath.Join(temp, "plumb-lab"), 0o777))
	_, err := rundir.New(temp)
	require.ErrorContains(t, err, "only this user can write")
	_, err = rundir.Sweep(temp, nil)
	require.ErrorContains(t, err, "only this user can write")
}

func TestAnUnknownKindIsNotForgotten(t *testing.T) {
	temp := t.TempDir()
	dead := kill(t, temp, "x")
	_, err := rundir.Sweep(temp, nil)
	require.ErrorContains(t, err, `nobody knows how to remove a "thing"`)
	require.DirExists(t, dead)
}
