// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/internal/local"
)

func (a *app) localCommand() *cobra.Command {
	var (
		once        bool
		node        string
		binDir      string
		timeServers []string
	)
	cmd := &cobra.Command{
		Use:   "local",
		Short: "Run Plumb on this machine now",
		Long: `Start an aggregator and one agent on this machine with throw-away keys, wait until
evidence arrives, say what can and cannot be seen here, show the verdicts, and
keep showing changes. Ctrl-C ends both and leaves nothing behind.

Without root the rest works, and what is not measured is named with its reason.
Nothing on the machine is changed, and nothing listens but on the loopback.

Exit status 0 also when a verdict is proven; 2 when it cannot run.`,
		Example: `  sudo {plumb} local
  {plumb} local --once --json | jq '.unmeasured'
  {plumb} local --time-server corp=ntp1.example.com:123 --time-server pool=pool.ntp.org:123`,
		Args:              exactly(0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.local(cmd.Context(), once, local.Config{
				BinDir: binDir, Node: node, TimeServers: timeServers,
			})
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "end after the first report")
	cmd.Flags().StringVar(&node, "node-name", "", "name that this machine reports under (default: its host name)")
	cmd.Flags().StringVar(&binDir, "bin-dir", a.BinDir, "directory of plumb-aggregator and plumb-agent")
	cmd.Flags().StringArrayVar(&timeServers, "time-server", nil, "GROUP=HOST:PORT of a time server to ask (repeatable; default: the agent's own)")
	return cmd
}

func (a *app) local(ctx context.Context, once bool, cfg local.Config) (err error) {
	if a.json && !once {
		return errors.New("read --json: with local it needs --once; follow changes with verdicts --watch --json")
	}
	if cfg.Node == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("read the host name: %w; name this machine with --node-name", err)
		}
		cfg.Node = strings.ToLower(host)
	}
	steps := newSteps(a.Stderr, a.Detect(a.Stderr, a.Env), a.noColor)
	cfg.Progress = steps
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	stack, err := local.Start(ctx, cfg)
	defer func() {
		var crash *local.CrashError
		if errors.As(err, &crash) {
			steps.interrupt()
			for _, line := range crash.Tail {
				fmt.Fprintf(a.Stderr, "  %s | %s\n", crash.Name, oneLine(line))
			}
		}
	}()
	if err != nil {
		steps.interrupt()
		return err
	}
	defer func() {
		steps.Step("stopping")
		if closeErr := stack.Close(); closeErr != nil {
			err = errors.Join(err, closeErr)
			return
		}
		steps.Done("nothing is left behind")
	}()
	if err := stack.WaitEvidence(ctx); err != nil {
		steps.interrupt()
		return err
	}
	a.server = stack.URL
	c, err := a.client()
	if err != nil {
		return err
	}
	defer c.close()
	report, err := a.gather(ctx, c, stack.Node)
	if err != nil {
		return err
	}
	if a.json {
		return a.encode(report.json(stack.URL))
	}
	p := a.printer()
	program := a.name
	if program == "plumb" {
		program = a.Program // "bin/plumb" is what can be typed where it was
	}
	p.localReport(program, stack, report, once)
	if once || p.err != nil {
		return p.err
	}
	go func() { cancel(stack.Wait(ctx)) }()
	err = a.watch(ctx, c, watchOptions{quiet: true})
	var crash *local.CrashError
	if errors.As(context.Cause(ctx), &crash) {
		return crash
	}
	return err
}

// A localReport is what can be said of this machine.
type localReport struct {
	nodes      *apiv1.ListNodesResponse
	verdicts   *apiv1.ListVerdictsResponse
	explained  *apiv1.ExplainNodeResponse
	unmeasured []unmeasured
	uid        int
}

// unmeasured are items of one probe that are unknown for one reason.
type unmeasured struct {
	Probe  string   `json:"probe"`
	Reason string   `json:"reason"`
	Detail string   `json:"detail"`
	Items  []string `json:"items"`
}

func (a *app) gather(ctx context.Context, c *client, node string) (localReport, error) {
	r := localReport{uid: os.Geteuid()}
	var err error
	if r.nodes, err = c.nodes(ctx); err != nil {
		return r, err
	}
	if r.verdicts, err = c.verdicts(ctx, &apiv1.ListVerdictsRequest{}); err != nil {
		return r, err
	}
	if r.explained, err = ask(ctx, c, c.rpc.ExplainNode, &apiv1.ExplainNodeRequest{Node: node}); err != nil {
		return r, err
	}
	evidence, err := ask(ctx, c, c.rpc.GetEvidence, &apiv1.GetEvidenceRequest{Node: node})
	if err != nil {
		return r, err
	}
	r.unmeasured = notMeasured(evidence)
	return r, nil
}

// notMeasured groups what is unknown by probe and reason, each item once
// however many subjects lack it.
func notMeasured(evidence *apiv1.GetEvidenceResponse) []unmeasured {
	out := []unmeasured{}
	for _, s := range evidence.GetSubjects() {
		for _, it := range s.GetItems() {
			if it.GetState() != "unknown" {
				continue
			}
			probe, _, _ := strings.Cut(it.GetItem(), ".")
			i := slices.IndexFunc(out, func(u unmeasured) bool {
				return u.Probe == probe && u.Reason == it.GetReason() && u.Detail == it.GetDetail()
			})
			if i < 0 {
				out = append(out, unmeasured{Probe: probe, Reason: it.GetReason(), Detail: it.GetDetail()})
				i = len(out) - 1
			}
			if !slices.Contains(out[i].Items, it.GetItem()) {
				out[i].Items = append(out[i].Items, it.GetItem())
			}
		}
	}
	slices.SortStableFunc(out, func(a, b unmeasured) int { return cmp.Compare(a.Probe, b.Probe) })
	return out
}

// json is the machine's form of the report; its parts are the API's messages.
func (r localReport) json(server string) any {
	raw := func(m proto.Message) json.RawMessage {
		b, err := marshal(m, "")
		if err != nil {
			return json.RawMessage("null")
		}
		return b
	}
	return struct {
		Server     string          `json:"server"`
		UID        int             `json:"uid"`
		Nodes      json.RawMessage `json:"nodes"`
		Explained  json.RawMessage `json:"explained"`
		Verdicts   json.RawMessage `json:"verdicts"`
		Unmeasured []unmeasured    `json:"unmeasured"`
	}{server, r.uid, raw(r.nodes), raw(r.explained), raw(r.verdicts), r.unmeasured}
}

func (p *printer) localReport(program string, stack *local.Stack, r localReport, once bool) {
	p.nodes(r.nodes.GetNodes(), r.verdicts.GetVerdicts())
	p.probes(r.explained.GetNode())
	p.notMeasured(r)
	p.heading("Verdicts")
	var standing []*apiv1.Verdict
	for _, v := range r.verdicts.GetVerdicts() {
		if live(v) {
			standing = append(standing, v)
		}
	}
	groups := weigh(r.explained.GetAssessments())
	if len(standing) > 0 {
		p.verdicts(standing)
	} else {
		p.acquitted(r.explained.GetNode(), groups)
	}
	p.assessments("Accused", span{"  ●", bad}, groups.accused)
	p.assessments("Cannot say", span{"  ?", blind}, groups.unsaid)
	p.assessments("Exonerated", span{"  ✓", good}, groups.exonerated)
	if once {
		return
	}
	p.heading("Meanwhile, in another terminal")
	base := program + " --server " + stack.URL
	for _, s := range []string{
		base + " why " + stack.Node,
		base + " evidence " + stack.Node,
		base + " verdicts --json",
		"curl -s " + stack.URL + "/api/v1/verdicts",
		"curl -s " + stack.AgentMetrics + " | grep ^plumb_",
	} {
		p.verbatim(2, s)
	}
	p.blank()
	p.line(span{"watching for changes; Ctrl-C ends and leaves nothing behind", faint})
}

// notMeasured names what cannot be seen here, and why.
func (p *printer) notMeasured(r localReport) {
	if len(r.unmeasured) == 0 && r.uid == 0 {
		return
	}
	p.heading("What is not measured, and why")
	if r.uid != 0 {
		p.para(text("  "), 2, span{fmt.Sprintf("You are not root (uid %d), so what needs kernel hooks or other processes' namespaces stays unseen; the rest works. To see all of it: sudo make run.", r.uid), warning})
	}
	const most = 4
	for _, u := range r.unmeasured {
		items := strings.Join(u.Items, ", ")
		if len(u.Items) > most {
			items = strings.Join(u.Items[:most], ", ") + " and " + count(len(u.Items)-most, "more", "more")
		}
		body := []span{text(items + ": "), {u.Reason, blind}}
		if u.Detail != "" {
			body = append(body, text("; "+sentence(u.Detail)))
		}
		p.para(span{"  ?", blind}, 4, body...)
	}
}
