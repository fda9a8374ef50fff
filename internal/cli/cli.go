// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/plumb-dev/plumb/internal/flagenv"
)

// Exit statuses.
const (
	// StatusFine also means that there are verdicts, but none that is proven.
	StatusFine = 0
	// StatusProven: a proven verdict is firing among what was asked for.
	StatusProven = 1
	// StatusTrouble: the question could not be answered.
	StatusTrouble = 2
)

// DefaultServer is where an aggregator's read API listens unless told otherwise.
const DefaultServer = "http://127.0.0.1:9952"

// A Config is everything that the CLI takes from its process.
type Config struct {
	// Program is argv[0]: called kubectl-plumb it names itself "kubectl plumb".
	Program string
	// Args follow the program's name.
	Args   []string
	Stdout io.Writer
	Stderr io.Writer
	// Env looks a variable up, as os.LookupEnv does.
	Env func(string) (string, bool)
	// Now gives the time against which ages are counted.
	Now func() time.Time
	// Location is the zone of shown times of day.
	Location *time.Location
	// Version of this build.
	Version Version
	// Library reads signature files.
	Library Library
	// BinDir is where plumb local finds the other binaries.
	BinDir string
	// Detect looks at the terminal; nil means the function Detect.
	Detect func(io.Writer, func(string) (string, bool)) Terminal
}

// A Version says which build this is.
type Version struct {
	Version string `json:"version"`
	// BuildTime is RFC 3339, or empty when it is not known.
	BuildTime string `json:"buildTime"`
	GoVersion string `json:"goVersion"`
	Platform  string `json:"platform"`
}

// errProven ends a verb with StatusProven and without a message.
var errProven = errors.New("a proven verdict is firing")

// errFailedCases ends plumb signatures test with status 1.
var errFailedCases = errors.New("test cases failed")

// Run does what the arguments say and returns the exit status. It writes at
// most one line to Stderr for trouble. It returns early when ctx is done, which
// is no trouble: the user asked for it.
func Run(ctx context.Context, cfg Config) int {
	if cfg.Detect == nil {
		cfg.Detect = Detect
	}
	a := &app{Config: cfg, name: "plumb"}
	if filepath.Base(cfg.Program) == "kubectl-plumb" {
		a.name = "kubectl plumb"
	}
	err := a.command().ExecuteContext(ctx)
	switch {
	case err == nil:
		return StatusFine
	case errors.Is(err, errProven), errors.Is(err, errFailedCases):
		return StatusProven
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return StatusFine
	case errors.Is(err, syscall.EPIPE):
		return StatusFine // "| head" has seen enough
	}
	fmt.Fprintf(cfg.Stderr, "plumb: %s\n", oneLine(err.Error()))
	return StatusTrouble
}

// oneLine keeps an error to one line that cannot drive the terminal.
func oneLine(s string) string {
	return Terminal{Unicode: true}.clean(strings.Join(strings.Fields(s), " "))
}

// An app is one run of the CLI. Its flag fields are filled before a verb runs.
type app struct {
	Config
	name string

	server  string
	json    bool
	noColor bool
	timeout time.Duration
}

// printer lays out for standard output.
func (a *app) printer() *printer {
	t := a.Detect(a.Stdout, a.Env)
	if a.noColor {
		t.Colour = false
	}
	return &printer{w: a.Stdout, term: t, now: a.Now, loc: a.Location}
}

func (a *app) client() (*client, error) { return newClient(a.server, a.timeout) }

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "plumb",
		Short: "Say what is out of true in a cluster, and prove it",
		Long: `Plumb measures on every node what the Kubernetes API cannot see, and weighs it
against a library of failure signatures. What holds is a verdict: the root
cause, where it is, the measurements that prove it, the rival causes that the
same measurements rule out, and what to do.

Begin with "{plumb} verdicts". When something is wrong, "{plumb} why ID" argues
it; "{plumb} why NODE" also says what a node is acquitted of, and what could not
be seen.

Exit status: 0 fine; 1 a proven verdict is firing (nodes, verdicts, why);
2 trouble, said in one line on standard error.`,
		Example: `  {plumb} verdicts                  what is wrong now
  {plumb} why 3f9a2c                one verdict, argued (the start of its id is enough)
  {plumb} why node-7                everything weighed on one node
  {plumb} verdicts --watch          changes as they happen
  {plumb} verdicts --json | jq '.verdicts[] | select(.grade == "proven")'
  kubectl -n plumb port-forward deploy/plumb-aggregator 9952    (reach one in a cluster)`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              a.noSuchVerb,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetArgs(a.Args)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	flags := root.PersistentFlags()
	flags.StringVar(&a.server, "server", DefaultServer, "the aggregator's read API")
	flags.BoolVar(&a.json, "json", false, "answer with the API's JSON")
	flags.BoolVar(&a.noColor, "no-color", false, "no colour, also on a terminal; NO_COLOR does the same")
	flags.DurationVar(&a.timeout, "timeout", 10*time.Second, "longest wait for an answer")
	_ = root.RegisterFlagCompletionFunc("server", cobra.NoFileCompletions)
	_ = root.RegisterFlagCompletionFunc("timeout", cobra.NoFileCompletions)
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := flagenv.Apply(flags, "PLUMB", a.Env); err != nil {
			return err
		}
		_, err := a.client()
		return err
	}
	flagenv.Document(flags, "PLUMB")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(
		a.nodesCommand(), a.verdictsCommand(), a.whyCommand(), a.evidenceCommand(),
		a.episodesCommand(), a.signaturesCommand(), a.localCommand(),
		a.completionCommand(), a.versionCommand(),
	)
	root.InitDefaultHelpCmd()
	a.nameAll(root)
	return root
}

// nameAll puts the name under which the user called us into every text.
func (a *app) nameAll(cmd *cobra.Command) {
	if !cmd.HasParent() && a.name != cmd.Name() {
		cmd.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: a.name}
	}
	named := strings.NewReplacer("{plumb}", a.name)
	cmd.Short, cmd.Long, cmd.Example = named.Replace(cmd.Short), named.Replace(cmd.Long), named.Replace(cmd.Example)
	for _, sub := range cmd.Commands() {
		a.nameAll(sub)
	}
}

// noSuchVerb refuses a word that is no verb of cmd and names the nearest one.
func (a *app) noSuchVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("did you mean %q? ", near[0])
	}
	return fmt.Errorf("there is no verb %q; %ssee %s --help", args[0], hint, cmd.CommandPath())
}

// exactly asks for n arguments and says which.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return fmt.Errorf("%s wants %s, not %d arguments; see %s --help", cmd.CommandPath(), what, len(args), cmd.CommandPath())
		}
		return nil
	}
}
