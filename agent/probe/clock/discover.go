// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
)

const (
	// discoverMost bounds the sources, of which a pool file may name dozens. The
	// NTP algorithms themselves keep at most ten (NMAX survivors, RFC 5905 §11).
	discoverMost = 8
	// discoverBytes bounds one configuration file.
	discoverBytes = 1 << 20
	// discoverDepth bounds includes of includes.
	discoverDepth = 4
)

// DiscoverServers returns the servers that the node's own time daemon is
// configured to use, read from the files below root ("/" on the node itself, the
// mounted host root in a container): chrony first, then ntpd, then
// systemd-timesyncd, the first that names any. The probe asks nobody whom the
// owner did not configure, so there is no public default.
//
// Servers that are returned with an error are good; the error names the files
// that could not be read.
func DiscoverServers(root string) ([]Server, error) {
	d := &discovery{root: root, seen: map[string]bool{}}
	for _, daemon := range []func(){d.chrony, d.ntpd, d.timesyncd} {
		daemon()
		if len(d.servers) > 0 {
			break
		}
	}
	if len(d.servers) > discoverMost {
		d.servers = d.servers[:discoverMost]
	}
	return d.servers, errors.Join(d.errs...)
}

type discovery struct {
	root    string
	servers []Server
	seen    map[string]bool
	errs    []error
}

func (d *discovery) chrony() {
	for _, file := range []string{"/etc/chrony/chrony.conf", "/etc/chrony.conf"} {
		if d.chronyFile(file, discoverDepth) {
			return
		}
	}
}

func (d *discovery) ntpd() {
	for _, file := range []string{"/etc/ntp.conf", "/etc/ntpsec/ntp.conf"} {
		if text, ok := d.read(file); ok {
			for _, address := range parseNTPConf(text) {
				d.add(file, address)
			}
			return
		}
	}
}

func (d *discovery) timesyncd() {
	files := append([]string{"/etc/systemd/timesyncd.conf"}, d.glob("/etc/systemd/timesyncd.conf.d/*.conf")...)
	var conf timesyncdConf
	for _, file := range files {
		if text, ok := d.read(file); ok {
			conf.parse(text)
		}
	}
	for _, address := range conf.servers() {
		d.add("/etc/systemd/timesyncd.conf", address)
	}
}

// chronyFile reads one file and what it includes; it says whether it exists.
func (d *discovery) chronyFile(file string, depth int) bool {
	text, ok := d.read(file)
	if !ok {
		return false
	}
	conf := parseChronyConf(text)
	for _, address := range conf.addresses {
		d.add(file, address)
	}
	if depth == 0 {
		return true
	}
	for _, pattern := range conf.includes {
		for _, included := range d.glob(pattern) {
			d.chronyFile(included, depth-1)
		}
	}
	return true
}

// add takes over one server; what cannot be one is an error worth telling.
func (d *discovery) add(file, address string) {
	s, err := ParseServer(address)
	if err != nil {
		d.errs = append(d.errs, fmt.Errorf("read %s: %w", file, err))
		return
	}
	if !d.seen[s.key()] {
		d.seen[s.key()] = true
		d.servers = append(d.servers, s)
	}
}

// read returns a file below the root. That it does not exist is no error.
func (d *discovery) read(file string) ([]byte, bool) {
	// Cleaned as an absolute path, so that ".." stays below the root.
	name := filepath.Join(d.root, path.Clean("/"+file))
	f, err := os.Open(name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			d.errs = append(d.errs, fmt.Errorf("read the time daemon's configuration: %w", err))
		}
		return nil, false
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, discoverBytes))
	if err != nil {
		d.errs = append(d.errs, fmt.Errorf("read the time daemon's configuration %s: %w", name, err))
		return nil, false
	}
	return text, true
}

func (d *discovery) glob(pattern string) []string {
	root := filepath.Clean(d.root)
	names, err := filepath.Glob(filepath.Join(root, path.Clean("/"+pattern)))
	if err != nil {
		d.errs = append(d.errs, fmt.Errorf("look for %s in the time daemon's configuration: %w", pattern, err))
		return nil
	}
	for i := range names {
		names[i] = strings.TrimPrefix(names[i], root)
	}
	sort.Strings(names)
	return names
}

// A chronyConf is what matters of one chrony.conf(5) or *.sources file.
type chronyConf struct {
	// addresses are host or host:port.
	addresses []string
	// includes are glob patterns.
	includes []string
}

func parseChronyConf(text []byte) chronyConf {
	var c chronyConf
	eachLine(text, "#%;!", func(fields []string) {
		// chrony's directives ignore case.
		switch strings.ToLower(fields[0]) {
		case "server", "pool":
			c.addresses = append(c.addresses, withPort(fields[1:], "port"))
		case "include":
			c.includes = append(c.includes, fields[1])
		case "confdir":
			for _, dir := range fields[1:] {
				c.includes = append(c.includes, path.Join(dir, "*.conf"))
			}
		case "sourcedir":
			for _, dir := range fields[1:] {
				c.includes = append(c.includes, path.Join(dir, "*.sources"))
			}
		}
	})
	return c
}

// parseNTPConf reads ntp.conf(5). Addresses of 127.127.0.0/16 are names of
// reference clock drivers, not of servers.
func parseNTPConf(text []byte) []string {
	var addresses []string
	eachLine(text, "#", func(fields []string) {
		switch fields[0] {
		case "server", "pool":
			args := fields[1:]
			if args[0] == "-4" || args[0] == "-6" {
				args = args[1:]
			}
			if len(args) > 0 && !strings.HasPrefix(args[0], "127.127.") {
				addresses = append(addresses, withPort(args, "port"))
			}
		}
	})
	return addresses
}

// withPort joins the host with the value of its port option.
func withPort(args []string, option string) string {
	for i := 1; i+1 < len(args); i++ {
		if strings.EqualFold(args[i], option) {
			return net.JoinHostPort(args[0], args[i+1])
		}
	}
	return args[0]
}

// eachLine calls fn with the fields of every line that has an argument.
func eachLine(text []byte, comments string, fn func(fields []string)) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, discoverBytes+1)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.ContainsRune(comments, rune(line[0])) {
			continue
		}
		if before, _, found := strings.Cut(line, "#"); found {
			line = before
		}
		if fields := strings.Fields(line); len(fields) > 1 {
			fn(fields)
		}
	}
}

// A timesyncdConf follows timesyncd.conf(5): NTP= adds to the list, an empty
// assignment clears it, and FallbackNTP= counts only while NTP= is empty.
type timesyncdConf struct{ ntp, fallback []string }

func (c *timesyncdConf) parse(text []byte) {
	section := ""
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, discoverBytes+1)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
		case line[0] == '[':
			section = line
		case section == "[Time]":
			key, value, ok := strings.Cut(line, "=")
			if !ok {
				continue
			}
			switch strings.TrimSpace(key) {
			case "NTP":
				c.ntp = assign(c.ntp, value)
			case "FallbackNTP":
				c.fallback = assign(c.fallback, value)
			}
		}
	}
}

func assign(list []string, value string) []string {
	words := strings.Fields(value)
	if len(words) == 0 {
		return nil
	}
	return append(list, words...)
}

func (c *timesyncdConf) servers() []string {
	if len(c.ntp) > 0 {
		return c.ntp
	}
	return c.fallback
}
