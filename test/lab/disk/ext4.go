// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// makeExt4 makes the file system with its default journal. Blocks of 4 KiB are what
// a volume of a real node has; mke2fs would take 1 KiB for one below 512 MiB. Inode
// tables are left to be zeroed later, and the mount says never, so that no kernel
// thread writes to the disk on its own.
func makeExt4(device string) error {
	cmd := exec.Command("mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0",
		"-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1", device)
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return errors.New("mkfs.ext4 is missing; install e2fsprogs")
	}
	if err != nil {
		return fmt.Errorf("mkfs.ext4 %s: %w: %s", device, err, strings.TrimSpace(string(out)))
	}
	return nil
}

func mountExt4(device, at string) error {
	if err := unix.Mount(device, at, "ext4", unix.MS_NOATIME|unix.MS_NOSUID|unix.MS_NODEV, "noinit_itable"); err != nil {
		return fmt.Errorf("mount ext4 of %s at %s: %w", device, at, err)
	}
	return nil
}

// unmount takes a mount away; while a process still uses it, only its name goes,
// and the rest when that process is done. What is not mounted is no error.
func unmount(at string) error {
	err := unix.Unmount(at, 0)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(at, unix.MNT_DETACH)
	}
	// EINVAL: it is no mount point (umount(2)).
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unmount %s: %w", at, err)
	}
	return nil
}

// makeDirectory says whether it was missing, so that who made it can remove it.
func makeDirectory(path string) (made bool, err error) {
	if _, err := os.Stat(path); err == nil {
		return false, nil
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return false, fmt.Errorf("make directory: %w", err)
	}
	return true, nil
}
