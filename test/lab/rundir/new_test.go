// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package rundir

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNothingIsLeftOfARunThatCouldNotBeMade(t *testing.T) {
	for _, failing := range []string{lockName, listName} {
		t.Run(failing, func(t *testing.T) {
			temp := t.TempDir()
			refused := errors.New("refused")
			var opened []*os.File
			_, err := newDir(temp, func(path string, flags int, mode os.FileMode) (*os.File, error) {
				if filepath.Base(path) == failing {
					return nil, refused
				}
				f, err := os.OpenFile(path, flags, mode)
				opened = append(opened, f)
				return f, err
			})
			require.ErrorIs(t, err, refused)
			require.NoDirExists(t, filepath.Join(temp, baseName))
			for _, f := range opened {
				require.ErrorIs(t, f.Close(), os.ErrClosed, "%s is open still", f.Name())
			}
		})
	}
}
