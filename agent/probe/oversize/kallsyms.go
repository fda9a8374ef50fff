// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/plumb-dev/plumb/bpf"
)

// errHidden means that the kernel shows its symbols without their addresses.
var errHidden = errors.New("kernel addresses are hidden: CAP_SYSLOG missing, or kernel.kptr_restrict=2; grant the one, lower the other to 1")

// maxFunction bounds the text of a symbol that no other follows (the last of a
// module). The longest function of the table is below 4 KiB.
const maxFunction = 64 << 10

// A function is the text of one symbol.
type function struct {
	// name has no compiler suffix.
	name       string
	start, end uint64
}

// symbols are the functions that check sizes, ascending by address.
type symbols []function

// at finds the function that holds an address.
func (s symbols) at(address uint64) (string, bool) {
	i, found := slices.BinarySearchFunc(s, address, func(f function, a uint64) int {
		switch {
		case f.end <= a:
			return -1
		case f.start > a:
			return 1
		}
		return 0
	})
	if !found {
		return "", false
	}
	return s[i].name, true
}

// ranges is the table as the program searches it.
func (s symbols) ranges(table map[string]site) []bpf.SiteRange {
	out := make([]bpf.SiteRange, 0, len(s))
	for _, f := range s {
		out = append(out, bpf.SiteRange{Start: f.start, End: f.end, Class: uint32(table[f.name].class)})
	}
	return out
}

func readSymbols(path string, table map[string]site) (symbols, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read kernel symbols: %w", err)
	}
	defer f.Close()
	s, err := parseSymbols(f, table)
	if err != nil {
		return nil, fmt.Errorf("read kernel symbols from %s: %w", path, err)
	}
	return s, nil
}

// parseSymbols reads the lines of /proc/kallsyms, "address type name[ [module]]",
// and keeps the functions of the table. A function ends where the next symbol of
// whatever name begins.
func parseSymbols(r io.Reader, table map[string]site) (symbols, error) {
	var (
		found  symbols
		starts []uint64
	)
	err := eachSymbol(r, func(address uint64, name []byte) {
		starts = append(starts, address)
		// The conversion inside an index expression does not allocate.
		if _, ok := table[string(name)]; ok {
			found = append(found, function{name: string(name), start: address})
		}
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(starts)
	slices.SortFunc(found, func(a, b function) int {
		if a.start < b.start {
			return -1
		}
		return 1
	})
	found = slices.CompactFunc(found, func(a, b function) bool { return a.start == b.start })
	for i := range found {
		next, _ := slices.BinarySearch(starts, found[i].start+1)
		found[i].end = found[i].start + maxFunction
		if next < len(starts) && starts[next] < found[i].end {
			found[i].end = starts[next]
		}
	}
	if len(found) == 0 {
		return nil, errors.New("none of the known size checks is in it")
	}
	return found, nil
}

// nameOf finds the name of the function around an address, of the table or not.
func nameOf(path string, address uint64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read kernel symbols: %w", err)
	}
	defer f.Close()
	var (
		best     uint64
		bestName string
	)
	err = eachSymbol(f, func(start uint64, name []byte) {
		if start <= address && start >= best && len(name) > 0 {
			best, bestName = start, string(name)
		}
	})
	if err != nil {
		return "", fmt.Errorf("read kernel symbols from %s: %w", path, err)
	}
	if bestName == "" || address-best > maxFunction {
		return "", errors.New("find a kernel symbol: none is near the address")
	}
	return bestName, nil
}

// eachSymbol calls fn for each function with an address, its name stripped of
// what compilers append: .constprop.0, .isra.0, .part.0, .cold, .llvm.123.
func eachSymbol(r io.Reader, fn func(address uint64, name []byte)) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 64<<10), 1<<20)
	lines, hidden := 0, 0
	for s.Scan() {
		address, name, ok := parseSymbol(s.Bytes())
		if !ok {
			continue
		}
		lines++
		if address == 0 {
			hidden++
			continue
		}
		fn(address, name)
	}
	if err := s.Err(); err != nil {
		return err
	}
	if lines > 0 && hidden == lines {
		return errHidden
	}
	return nil
}

// parseSymbol returns the address and the stripped name of a text symbol.
func parseSymbol(line []byte) (uint64, []byte, bool) {
	address, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok || len(rest) < 3 || rest[1] != ' ' {
		return 0, nil, false
	}
	switch rest[0] {
	case 't', 'T', 'w', 'W':
	default:
		return 0, nil, false
	}
	value, err := strconv.ParseUint(string(address), 16, 64)
	if err != nil {
		return 0, nil, false
	}
	name := rest[2:]
	if i := bytes.IndexAny(name, ".\t "); i >= 0 {
		name = name[:i]
	}
	if len(name) == 0 {
		return 0, nil, false
	}
	return value, name, true
}
