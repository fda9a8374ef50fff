// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
)

// An archive is an initramfs in the making: paths in the guest to contents.
type archive struct {
	files map[string]entry
}

type entry struct {
	mode uint32
	data []byte
}

// File modes of the newc format are those of stat(2).
const (
	modeDir  = 0o040755
	modeFile = 0o100644
	modeExec = 0o100755
)

func newArchive() *archive { return &archive{files: map[string]entry{}} }

// add puts contents at a path of the guest and makes the directories above it.
func (a *archive) add(guest string, mode uint32, data []byte) {
	guest = strings.TrimPrefix(path.Clean(guest), "/")
	for dir := path.Dir(guest); dir != "." && dir != "/"; dir = path.Dir(dir) {
		a.files[dir] = entry{mode: modeDir}
	}
	a.files[guest] = entry{mode, data}
}

// addFile puts a file of the host at a path of the guest.
func (a *archive) addFile(guest, host string, mode uint32) error {
	data, err := os.ReadFile(host)
	if err != nil {
		return fmt.Errorf("add to initramfs: %w", err)
	}
	a.add(guest, mode, data)
	return nil
}

// addProgram puts a program of the host at the same path of the guest, with its
// interpreter and the shared libraries that it needs, found in the usual
// directories.
func (a *archive) addProgram(host string) error {
	resolved, err := filepath.EvalSymlinks(host)
	if err != nil {
		return fmt.Errorf("add program to initramfs: %w", err)
	}
	if err := a.addFile(host, resolved, modeExec); err != nil {
		return err
	}
	f, err := elf.Open(resolved)
	if err != nil {
		return fmt.Errorf("add program %s to initramfs: %w", host, err)
	}
	defer f.Close()
	if section := f.Section(".interp"); section != nil {
		raw, err := section.Data()
		if err != nil {
			return fmt.Errorf("add program %s to initramfs: %w", host, err)
		}
		interpreter := strings.TrimRight(string(raw), "\x00")
		if err := a.addFile(interpreter, interpreter, modeExec); err != nil {
			return err
		}
	}
	libraries, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("add program %s to initramfs: %w", host, err)
	}
	for _, name := range libraries {
		if err := a.addLibrary(name); err != nil {
			return fmt.Errorf("add program %s to initramfs: %w", host, err)
		}
	}
	return nil
}

func (a *archive) addLibrary(name string) error {
	for _, dir := range []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib"} {
		host := filepath.Join(dir, name)
		if _, known := a.files[strings.TrimPrefix(host, "/")]; known {
			return nil
		}
		if _, err := os.Stat(host); err == nil {
			return a.addProgram(host)
		}
	}
	return fmt.Errorf("shared library %s was not found", name)
}

// write packs the archive as gzipped cpio, newc format
// (Documentation/driver-api/early-userspace/buffer-format.rst).
func (a *archive) write(w io.Writer) error {
	zw, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	names := make([]string, 0, len(a.files))
	for name := range a.files {
		names = append(names, name)
	}
	sort.Strings(names)
	for i, name := range names {
		if err := writeEntry(zw, i+1, name, a.files[name]); err != nil {
			return err
		}
	}
	if err := writeEntry(zw, 0, "TRAILER!!!", entry{}); err != nil {
		return err
	}
	return zw.Close()
}

func writeEntry(w io.Writer, inode int, name string, e entry) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		inode, e.mode, 0, 0, 1, 0, len(e.data), 0, 0, 0, 0, len(name)+1, 0)
	b.WriteString(name)
	b.WriteByte(0)
	pad(&b)
	b.Write(e.data)
	pad(&b)
	_, err := w.Write(b.Bytes())
	return err
}

// pad fills up to a multiple of four; header and name are padded together.
func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}
