// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Command plumb is what a person asks what is out of true in a cluster, and why.
// Installed as kubectl-plumb it is a plugin of kubectl. It holds wiring only;
// the verbs are in internal/cli.
package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/plumb-dev/plumb/evidence"
	"github.com/plumb-dev/plumb/internal/buildinfo"
	"github.com/plumb-dev/plumb/internal/cli"
)

func main() { os.Exit(run()) }

func run() int {
	// SIGHUP comes when the terminal is closed, and SIGPIPE when what we write to
	// is: both must end plumb local in good order.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	return cli.Run(ctx, cli.Config{
		Program:  os.Args[0],
		Args:     os.Args[1:],
		Stdout:   os.Stdout,
		Stderr:   os.Stderr,
		Env:      os.LookupEnv,
		Now:      time.Now,
		Location: time.Local,
		Version:  version(),
		Library:  cli.SignatureFiles{Catalog: evidence.NewCatalog()},
		BinDir:   binDir(),
	})
}

// binDir is where this program really lies, whatever link it was called by.
func binDir() string {
	path, err := os.Executable()
	if err != nil {
		return "."
	}
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		path = resolved
	}
	return filepath.Dir(path)
}

func version() cli.Version {
	v := cli.Version{Version: buildinfo.Version(), GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if t := buildinfo.BuildTime(); !t.IsZero() {
		v.BuildTime = t.UTC().Format(time.RFC3339)
	}
	return v
}
