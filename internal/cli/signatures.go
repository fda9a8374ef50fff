// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
)

// A Library reads signature files on this machine, as the aggregator would.
type Library interface {
	// Check returns what is wrong with one file, each as one line that begins
	// with file:line:column.
	Check(path string) []error
	// Test runs the test cases of every file below dir. An error means that they
	// could not be run; one that unwraps to several has a line for each.
	Test(dir string) (TestReport, error)
}

// A TestReport is the outcome of signature test cases.
type TestReport struct {
	Signatures int `json:"signatures"`
	// Cases that the files hold, and those made from them by taking away one
	// item each.
	Cases     int `json:"cases"`
	Generated int `json:"generated"`
	// Failures is never nil, so that its JSON is a list.
	Failures []TestFailure `json:"failures"`
}

// A TestFailure is a case that did not come out as expected.
type TestFailure struct {
	File      string `json:"file"`
	Line      int    `json:"line"`
	Column    int    `json:"column"`
	Signature string `json:"signature"`
	Case      string `json:"case"`
	// What was expected and what came instead.
	What string `json:"what"`
}

func (a *app) signaturesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "signatures",
		Short: "List the failure signatures, or check and test files of your own",
		Long: `A signature is a YAML file that ties evidence and symptoms to one root cause, with
what proves it, what refutes it, and its own test cases. The aggregator loads
those that come with it and those of its --signatures directory; both count the
same. How to write one: docs/signatures.md.`,
		Example: `  {plumb} signatures list
  {plumb} signatures check signatures/network/mtu-overlay-mismatch.yaml
  {plumb} signatures test ./my-signatures`,
		Args: a.noSuchVerb,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.signaturesList(), a.signaturesCheck(), a.signaturesTest())
	return cmd
}

func (a *app) signaturesList() *cobra.Command {
	return &cobra.Command{
		Use:               "list",
		Short:             "List the signatures that the aggregator has loaded",
		Example:           `  {plumb} signatures list --json | jq -r '.signatures[].id'`,
		Args:              exactly(0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			defer c.close()
			res, err := c.signatures(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return writeJSON(a.Stdout, res)
			}
			p := a.printer()
			p.signatures(res.GetSignatures())
			return p.err
		},
	}
}

func (p *printer) signatures(signatures []*apiv1.Signature) {
	if len(signatures) == 0 {
		p.line(span{"plumb: the aggregator has loaded no signature, so it cannot accuse anything", blind})
		return
	}
	rows := make([][]cell, 0, len(signatures))
	for _, s := range signatures {
		rows = append(rows, []cell{{s.GetId(), strong}, text(s.GetSeverity()), text(s.GetTitle()), {s.GetOrigin(), faint}})
	}
	p.table(0, []column{
		{head: "SIGNATURE"}, {head: "SEVERITY"}, {head: "TITLE", wrap: true}, {head: "FROM", wrap: true},
	}, rows)
}

// checkedFile is what --json says of one file.
type checkedFile struct {
	File     string   `json:"file"`
	OK       bool     `json:"ok"`
	Problems []string `json:"problems"`
}

func (a *app) signaturesCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE…",
		Short: "Say whether signature files load, and where not",
		Long: `Read signature files as the aggregator does: strict YAML, types of expressions,
their cost, proof sets with two independent measurements, a sentence for every
refuter. Each problem is one line: file:line:column, what, why, the mend.

Exit status 2 when a file does not load.`,
		Example: `  {plumb} signatures check my-signatures/*.yaml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fmt.Errorf("%s wants at least one file; see %s --help", cmd.CommandPath(), cmd.CommandPath())
			}
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var files []checkedFile
			wrong := 0
			for _, path := range args {
				if cmd.Context().Err() != nil {
					return context.Canceled
				}
				f := checkedFile{File: path, Problems: []string{}}
				for _, problem := range a.Library.Check(path) {
					f.Problems = append(f.Problems, oneLine(problem.Error()))
				}
				f.OK = len(f.Problems) == 0
				if !f.OK {
					wrong++
				}
				files = append(files, f)
			}
			if err := a.checked(files); err != nil {
				return err
			}
			if wrong > 0 {
				return fmt.Errorf("check signatures: %d of %s not load", wrong, count(len(files), "file does", "files do"))
			}
			return nil
		},
	}
}

func (a *app) checked(files []checkedFile) error {
	if a.json {
		return a.encode(map[string]any{"files": files})
	}
	p := a.printer()
	for _, f := range files {
		if f.OK {
			p.line(span{"ok", good}, text("  "+f.File))
		}
		for _, problem := range f.Problems {
			p.line(text(problem))
		}
	}
	return p.err
}

func (a *app) encode(v any) error {
	e := json.NewEncoder(a.Stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// progressAfter is how long a person waits without a sign of life.
const progressAfter = 2 * time.Second

func (a *app) signaturesTest() *cobra.Command {
	return &cobra.Command{
		Use:   "test DIR",
		Short: "Run the test cases that signature files carry",
		Long: `Run the test cases of every signature below a directory: those that the files
hold, and for each of them the cases in which one item is unknown, which must
never prove anything.

Exit status 1 when a case fails, 2 when a file does not load.`,
		Example: `  {plumb} signatures test signatures
  {plumb} signatures test ./mine --json | jq '.failures[] | .what'`,
		Args: exactly(1, "one directory"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := a.testWithProgress(cmd.Context(), args[0])
			if errors.Is(err, context.Canceled) {
				return err
			}
			// Of the error itself only, not of what it wraps: each problem of the
			// files is worth its own line.
			if several, ok := err.(interface{ Unwrap() []error }); ok {
				p := a.printer()
				for _, problem := range several.Unwrap() {
					if a.json {
						fmt.Fprintln(a.Stderr, oneLine(problem.Error()))
					} else {
						p.line(text(problem.Error()))
					}
				}
				return fmt.Errorf("test signatures in %s: %s", args[0], count(len(several.Unwrap()), "problem in the files", "problems in the files"))
			}
			if err != nil {
				return fmt.Errorf("test signatures in %s: %w", args[0], err)
			}
			if report.Cases == 0 {
				return fmt.Errorf("test signatures in %s: %s, but no test case; a signature carries its own, see docs/signatures.md", args[0], count(report.Signatures, "signature", "signatures"))
			}
			return a.tested(report)
		},
	}
}

// testWithProgress says every two seconds that it still runs, on standard error
// so that the answer stays clean.
func (a *app) testWithProgress(ctx context.Context, dir string) (TestReport, error) {
	type outcome struct {
		report TestReport
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		report, err := a.Library.Test(dir)
		done <- outcome{report, err}
	}()
	began := time.Now()
	tick := time.NewTicker(progressAfter)
	defer tick.Stop()
	for {
		select {
		case o := <-done:
			return o.report, o.err
		case <-ctx.Done():
			return TestReport{}, context.Canceled // the process ends, and the cases with it
		case <-tick.C:
			fmt.Fprintf(a.Stderr, "plumb: still running the test cases of %s (%.0f s)\n", oneLine(dir), time.Since(began).Seconds())
		}
	}
}

func (a *app) tested(report TestReport) error {
	if a.json {
		if err := a.encode(report); err != nil {
			return err
		}
	} else {
		p := a.printer()
		for _, f := range report.Failures {
			p.para(span{"FAIL", bad}, 5, text(fmt.Sprintf("%s:%d:%d: ", f.File, f.Line, f.Column)), span{f.Signature, strong}, text(fmt.Sprintf(": case %q: %s", f.Case, f.What)))
		}
		all := report.Cases + report.Generated
		verdict := span{"ok", good}
		if len(report.Failures) > 0 {
			verdict = span{"failed", bad}
		}
		p.line(verdict, text(fmt.Sprintf("  %s: %s (%d written, %d with one item taken away), %d failed",
			count(report.Signatures, "signature", "signatures"), count(all, "case", "cases"), report.Cases, report.Generated, len(report.Failures))))
		if p.err != nil {
			return p.err
		}
	}
	if len(report.Failures) > 0 {
		return errFailedCases
	}
	return nil
}
