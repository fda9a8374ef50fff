// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package buildinfo says which build this is. Release builds set the variables
// with -ldflags "-X github.com/plumb-dev/plumb/internal/buildinfo.version=… -X
// github.com/plumb-dev/plumb/internal/buildinfo.buildTime=…"; any other build
// answers from what the go command recorded.
package buildinfo

import (
	"runtime"
	"runtime/debug"
	"time"
)

// Set by the linker only; nothing else writes them.
var (
	version   string
	buildTime string
)

// Version is the released version, or the commit, with "+dirty" when the tree
// had changes, or "unknown".
func Version() string {
	if version != "" {
		return version
	}
	revision, _, dirty := recorded()
	if revision == "" {
		return "unknown"
	}
	if len(revision) > 12 {
		revision = revision[:12]
	}
	if dirty {
		revision += "+dirty"
	}
	return revision
}

// BuildTime is when the build was made, or the time of its commit; zero when
// neither is known. Nothing that this build runs on can honestly be earlier.
func BuildTime() time.Time {
	if t, err := time.Parse(time.RFC3339, buildTime); err == nil {
		return t
	}
	_, at, _ := recorded()
	return at
}

// String is one line for --version.
func String() string {
	s := Version() + " " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
	if t := BuildTime(); !t.IsZero() {
		s += " " + t.UTC().Format(time.RFC3339)
	}
	return s
}

func recorded() (revision string, at time.Time, dirty bool) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "", time.Time{}, false
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value
		case "vcs.time":
			if t, err := time.Parse(time.RFC3339, s.Value); err == nil {
				at = t
			}
		case "vcs.modified":
			dirty = s.Value == "true"
		}
	}
	return revision, at, dirty
}
