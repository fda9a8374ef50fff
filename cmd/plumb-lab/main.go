// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Command plumb-lab builds a cluster out of namespaces on this machine, breaks it
// as a scenario says, and reports what Plumb made of it. It holds flags and wiring
// only.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/plumb-dev/plumb/internal/buildinfo"
	"github.com/plumb-dev/plumb/internal/cli"
	"github.com/plumb-dev/plumb/internal/machine"
	"github.com/plumb-dev/plumb/test/lab"
	"github.com/plumb-dev/plumb/test/lab/report"
	"github.com/plumb-dev/plumb/test/lab/scenario"
	"github.com/plumb-dev/plumb/test/lab/scenarios"
)

const usage = `plumb-lab builds a small cluster on this machine out of network, mount and PID
namespaces: nodes in zones, a fabric between them, an overlay, pods with real
traffic, a metadata server, time servers, DNS, and etcd on control-plane nodes.
The unchanged plumb-agent runs on every node and plumb-aggregator behind the
fabric. Then it breaks the plumbing as a scenario says and holds the verdicts
against what the scenario expects. It needs root and a kernel of 5.10 or later.

  plumb-lab run demo             a mismatched overlay, proven and cleared, live
  plumb-lab run FILE.yaml        a scenario of your own (docs/lab.md)
  plumb-lab list                 the built-in scenarios
  plumb-lab suite                all of them, side by side, with a table

Exit status: 0 all expectations held and nothing forbidden appeared; 1 otherwise,
also when --timeout ends the run; 2 the scenario or the machine is unusable.
Whatever ends it, nothing is left behind.`

// Exit statuses of the contract.
const (
	exitHeld     = 0
	exitFailed   = 1
	exitUnusable = 2
)

func main() {
	machine.Main(lab.Roles())
	// A reader that went away must not end the lab before it has cleaned up.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	// The first signal ends the run in order, a second one at once.
	context.AfterFunc(ctx, stop)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	os.Exit(status)
}

// run is main with its surroundings as arguments.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	status := exitHeld
	root := &cobra.Command{
		Use: "plumb-lab", Short: "A cluster of namespaces with real faults", Long: usage,
		Version: buildinfo.String(), SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	e := &environment{stdout: stdout, stderr: stderr, status: &status}
	root.PersistentFlags().StringVar(&e.bin, "bin", os.Getenv("PLUMB_BIN"), "directory of the product's programs; none: beside plumb-lab, then ./bin [PLUMB_BIN]")
	root.AddCommand(e.runCommand(), e.listCommand(), e.suiteCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(stderr, "plumb-lab:", oneLine(err))
		return exitUnusable
	}
	return status
}

func oneLine(err error) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "\n", "; ")), " ")
}

type environment struct {
	stdout, stderr io.Writer
	status         *int
	bin            string
}

// binDirs are where the product's programs are looked for.
func (e *environment) binDirs() []string {
	if e.bin != "" {
		return []string{e.bin}
	}
	var dirs []string
	if self, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(self))
	}
	return append(dirs, "bin")
}

func (e *environment) terminal(w io.Writer) report.Terminal {
	return report.Terminal(cli.Detect(w, os.LookupEnv))
}

// load finds a scenario: a file when it is named like one, else a built-in one.
func load(name string) (*scenario.Scenario, error) {
	if strings.ContainsRune(name, '/') || strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml") {
		return scenario.Load(name)
	}
	return scenarios.Load(name)
}

func (e *environment) runCommand() *cobra.Command {
	var asJSON, keep bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "run FILE.yaml | NAME", Short: "Run one scenario, with a live timeline",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.FixedCompletions(scenarios.Names(), cobra.ShellCompDirectiveDefault),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := load(args[0])
			if err != nil {
				return err
			}
			out := e.stdout
			if asJSON {
				out = io.Discard
			}
			opts := lab.Options{
				Scenario: s, BinDirs: e.binDirs(), Timeout: timeout,
				Timeline: report.NewTimeline(out, e.terminal(out), time.Now()),
			}
			if keep {
				opts.Keep = e.keep
			}
			result, err := lab.Run(cmd.Context(), opts)
			if unusable := new(lab.UnusableError); errors.As(err, &unusable) {
				return err
			}
			*e.status = report.SuiteStatus([]report.Result{result})
			if err != nil {
				fmt.Fprintln(e.stderr, "plumb-lab:", oneLine(err))
				*e.status = exitFailed
			}
			if !asJSON {
				return nil
			}
			if err := result.WriteJSON(e.stdout); err != nil {
				fmt.Fprintln(e.stderr, "plumb-lab:", oneLine(err))
				*e.status = exitFailed
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object at the end instead of the timeline")
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the cluster standing when all is decided, until Ctrl-C")
	cmd.Flags().DurationVar(&timeout, "timeout", 180*time.Second, "end the run after this time, with status 1")
	return cmd
}

// keep says how to look into the cluster, and waits for Ctrl-C.
func (e *environment) keep(ctx context.Context, places []lab.Place) {
	fmt.Fprintln(e.stderr, "the cluster stays until Ctrl-C; look into it with:")
	for _, p := range places {
		fmt.Fprintf(e.stderr, "  nsenter -t %d -n -m -p -u   # %s\n", p.PID, p.Name)
	}
	<-ctx.Done()
}

func (e *environment) listCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the built-in scenarios",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			all, err := builtIn(scenarios.Names())
			if err != nil {
				return err
			}
			if asJSON {
				return report.WriteListJSON(e.stdout, all)
			}
			return report.WriteList(e.stdout, e.terminal(e.stdout), all)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "a JSON array")
	return cmd
}

func builtIn(names []string) ([]*scenario.Scenario, error) {
	var all []*scenario.Scenario
	for _, name := range names {
		s, err := load(name)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func (e *environment) suiteCommand() *cobra.Command {
	var asJSON, core bool
	var parallel int
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "suite [NAME | FILE.yaml]…", Short: "Run many scenarios side by side and print a table",
		Long: "Run many scenarios side by side and print a table: all built-in ones, or those that are named.",
		RunE: func(cmd *cobra.Command, args []string) error {
			names := args
			switch {
			case len(names) > 0 && core:
				return errors.New("give --core or names, not both")
			case core:
				names = scenarios.Core()
			case len(names) == 0:
				names = scenarios.Names()
			}
			all, err := builtIn(names)
			if err != nil {
				return err
			}
			return e.suite(cmd.Context(), all, parallel, timeout, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "a JSON array of results instead of the table")
	cmd.Flags().BoolVar(&core, "core", false, "only the core set, which make test runs")
	cmd.Flags().IntVar(&parallel, "parallel", report.DefaultParallel, "how many run at once")
	cmd.Flags().DurationVar(&timeout, "timeout", 180*time.Second, "end one run after this time")
	return cmd
}

func (e *environment) suite(ctx context.Context, all []*scenario.Scenario, parallel int, timeout time.Duration, asJSON bool) error {
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	progress, terminal := e.stderr, e.terminal(e.stderr)
	results := report.RunSuite(ctx, names, parallel, func(ctx context.Context, i int) report.Result {
		result, err := lab.Run(ctx, lab.Options{
			Scenario: all[i], BinDirs: e.binDirs(), Timeout: timeout, FailFast: true,
			Timeline: report.NewTimeline(io.Discard, report.Terminal{}, time.Now()),
		})
		if err != nil {
			return report.Unrun(all[i].Name, all[i].Pending, err)
		}
		return result
	}, func(r report.Result, done int) {
		_ = report.WriteEnded(progress, terminal, r, done, len(all)) // progress only
	})
	*e.status = report.SuiteStatus(results)
	if asJSON {
		return report.WriteResults(e.stdout, results)
	}
	return report.WriteTable(e.stdout, e.terminal(e.stdout), results)
}
