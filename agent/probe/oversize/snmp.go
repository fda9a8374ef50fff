// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// fragments are the counters of IPv4 and IPv6 together, of the network namespace
// of the agent.
type fragments struct {
	creates, fails uint64
}

// readFragments reads FragCreates and FragFails of RFC 4293 from /proc/net/snmp
// and, unless IPv6 is compiled out, /proc/net/snmp6.
func readFragments(proc string) (fragments, error) {
	path := filepath.Join(proc, "net/snmp")
	f, err := os.Open(path)
	if err != nil {
		return fragments{}, fmt.Errorf("read fragment counters: %w", err)
	}
	defer f.Close()
	v4, err := parseSNMP(f)
	if err != nil {
		return fragments{}, fmt.Errorf("read fragment counters from %s: %w", path, err)
	}
	path += "6"
	f6, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return v4, nil
	}
	if err != nil {
		return fragments{}, fmt.Errorf("read fragment counters: %w", err)
	}
	defer f6.Close()
	v6, err := parseSNMP6(f6)
	if err != nil {
		return fragments{}, fmt.Errorf("read fragment counters from %s: %w", path, err)
	}
	return fragments{creates: v4.creates + v6.creates, fails: v4.fails + v6.fails}, nil
}

// parseSNMP reads the two lines "Ip: names" and "Ip: values". Columns are found
// by name: kernels add some.
func parseSNMP(r io.Reader) (fragments, error) {
	var names []string
	s := bufio.NewScanner(r)
	for s.Scan() {
		rest, ok := strings.CutPrefix(s.Text(), "Ip: ")
		if !ok {
			continue
		}
		fields := strings.Fields(rest)
		if names == nil {
			names = fields
			continue
		}
		return fragmentFields(func(name string) (string, bool) {
			for i, n := range names {
				if n == name && i < len(fields) {
					return fields[i], true
				}
			}
			return "", false
		}, "FragCreates", "FragFails")
	}
	if err := s.Err(); err != nil {
		return fragments{}, err
	}
	return fragments{}, errors.New("no line of values for Ip")
}

// parseSNMP6 reads lines "name value".
func parseSNMP6(r io.Reader) (fragments, error) {
	values := map[string]string{}
	s := bufio.NewScanner(r)
	for s.Scan() {
		if fields := strings.Fields(s.Text()); len(fields) == 2 {
			values[fields[0]] = fields[1]
		}
	}
	if err := s.Err(); err != nil {
		return fragments{}, err
	}
	return fragmentFields(func(name string) (string, bool) {
		v, ok := values[name]
		return v, ok
	}, "Ip6FragCreates", "Ip6FragFails")
}

func fragmentFields(lookup func(string) (string, bool), creates, fails string) (fragments, error) {
	var out fragments
	for name, dst := range map[string]*uint64{creates: &out.creates, fails: &out.fails} {
		text, ok := lookup(name)
		if !ok {
			return fragments{}, fmt.Errorf("no column %s", name)
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return fragments{}, fmt.Errorf("column %s: %w", name, err)
		}
		*dst = n
	}
	return out, nil
}
