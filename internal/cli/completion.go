// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/internal/flagenv"
)

// completionTimeout is as long as a person waits for a Tab.
const completionTimeout = time.Second

func (a *app) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a completion script for a shell",
		Long: `Print a script that teaches a shell to complete verbs, flags, and, by asking the
aggregator, the names of nodes and the ids of verdicts.`,
		Example: `  source <(plumb completion bash)
  plumb completion zsh > "${fpath[1]}/_plumb"
  plumb completion fish > ~/.config/fish/completions/plumb.fish`,
		Args:      exactly(1, "the name of a shell: bash, zsh or fish"),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(a.Stdout, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(a.Stdout)
			case "fish":
				return cmd.Root().GenFishCompletion(a.Stdout, true)
			}
			return fmt.Errorf("there is no completion for the shell %q; there is for bash, zsh and fish", args[0])
		},
	}
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "version",
		Short:             "Say which build this is",
		Example:           `  {plumb} version --json | jq -r .version`,
		Args:              exactly(0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			if a.json {
				e := json.NewEncoder(a.Stdout)
				e.SetIndent("", "  ")
				return e.Encode(a.Version)
			}
			v := a.Version
			_, err := fmt.Fprintln(a.Stdout, strings.Join(slices.DeleteFunc(
				[]string{"plumb", v.Version, v.GoVersion, v.Platform, v.BuildTime},
				func(s string) bool { return s == "" }), " "))
			return err
		},
	}
}

// completer connects for a completion. A shell runs no PersistentPreRun before
// it, so the environment is read here; whatever fails completes to nothing.
func (a *app) completer(cmd *cobra.Command) (*client, context.Context, context.CancelFunc) {
	if err := flagenv.Apply(cmd.Root().PersistentFlags(), "PLUMB", a.Env); err != nil {
		return nil, nil, nil
	}
	c, err := newClient(a.server, completionTimeout)
	if err != nil {
		return nil, nil, nil
	}
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	return c, ctx, func() { cancel(); c.close() }
}

func (a *app) completeNodes(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	c, ctx, done := a.completer(cmd)
	if c == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer done()
	return nodesFor(ctx, c, prefix), cobra.ShellCompDirectiveNoFileComp
}

// completeNode completes the first argument only.
func (a *app) completeNode(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeNodes(cmd, args, prefix)
}

func (a *app) completeNodesAndVerdicts(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	c, ctx, done := a.completer(cmd)
	if c == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer done()
	out := nodesFor(ctx, c, prefix)
	verdicts, err := c.verdicts(ctx, &apiv1.ListVerdictsRequest{})
	if err != nil {
		return out, cobra.ShellCompDirectiveNoFileComp
	}
	worstFirst(verdicts.GetVerdicts())
	for _, v := range verdicts.GetVerdicts() {
		if strings.HasPrefix(v.GetId(), prefix) {
			out = append(out, v.GetId()+"\t"+oneLine(v.GetGrade()+" "+v.GetSignature()+", "+where(v.GetScope())))
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

func (a *app) completeProbes(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	c, ctx, done := a.completer(cmd)
	if c == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer done()
	nodes, err := c.nodes(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	seen := make(map[string]bool)
	for _, n := range nodes.GetNodes() {
		if len(args) > 0 && n.GetName() != args[0] {
			continue
		}
		for _, pr := range n.GetProbes() {
			if !seen[pr.GetName()] && strings.HasPrefix(pr.GetName(), prefix) {
				seen[pr.GetName()] = true
				out = append(out, pr.GetName())
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func nodesFor(ctx context.Context, c *client, prefix string) []string {
	nodes, err := c.nodes(ctx)
	if err != nil {
		return nil
	}
	var out []string
	for _, n := range nodes.GetNodes() {
		if strings.HasPrefix(n.GetName(), prefix) {
			out = append(out, n.GetName()+"\t"+oneLine("node, "+n.GetState()))
		}
	}
	return out
}
