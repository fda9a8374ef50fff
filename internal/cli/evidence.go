// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/structpb"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
)

func (a *app) evidenceCommand() *cobra.Command {
	var probe string
	cmd := &cobra.Command{
		Use:   "evidence NODE",
		Short: "Show what is known of a node: values, ages, and the hooks behind them",
		Long: `Show every item of evidence that the aggregator holds of a node, by subject (the
node itself, its devices, …): the value with its unit and uncertainty, the hook
or source that measured it, and its age. What is unknown stands there with its
reason; what cannot exist on a subject is listed at its end.

The items are explained in docs/evidence.md.`,
		Example: `  {plumb} evidence node-7
  {plumb} evidence node-7 --probe clock
  {plumb} evidence node-7 --json | jq '.subjects[].items[] | select(.state == "unknown")'`,
		Args:              exactly(1, "the name of a node"),
		ValidArgsFunction: a.completeNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			defer c.close()
			return a.evidence(cmd.Context(), c, args[0], probe)
		},
	}
	cmd.Flags().StringVar(&probe, "probe", "", "only what this probe measured")
	_ = cmd.RegisterFlagCompletionFunc("probe", a.completeProbes)
	return cmd
}

func (a *app) evidence(ctx context.Context, c *client, node, probe string) error {
	if err := c.checkNode(ctx, node, a.name); err != nil {
		return err
	}
	res, err := ask(ctx, c, c.rpc.GetEvidence, &apiv1.GetEvidenceRequest{Node: node})
	if err != nil {
		return err
	}
	if probe != "" {
		if err := onlyProbe(res, probe); err != nil {
			return err
		}
	}
	if a.json {
		return writeJSON(a.Stdout, res)
	}
	p := a.printer()
	p.nodeLine(res.GetNode())
	if len(res.GetSubjects()) == 0 {
		p.line(span{"plumb: no evidence of " + node, blind})
	}
	for _, s := range res.GetSubjects() {
		p.subject(s)
	}
	return p.err
}

// onlyProbe leaves the items of one probe, whose name stands before the dot.
func onlyProbe(res *apiv1.GetEvidenceResponse, probe string) error {
	probes := make(map[string]bool)
	for _, pr := range res.GetNode().GetProbes() {
		probes[pr.GetName()] = true
	}
	for _, s := range res.GetSubjects() {
		s.Items = slices.DeleteFunc(s.Items, func(it *apiv1.EvidenceItem) bool {
			name, _, _ := strings.Cut(it.GetItem(), ".")
			probes[name] = true
			return name != probe
		})
	}
	res.Subjects = slices.DeleteFunc(res.Subjects, func(s *apiv1.SubjectEvidence) bool { return len(s.GetItems()) == 0 })
	if !probes[probe] {
		names := slices.Sorted(maps.Keys(probes))
		return fmt.Errorf("read --probe: node %s has no probe %q; it has: %s", res.GetNode().GetName(), probe, cmp.Or(strings.Join(names, ", "), "none"))
	}
	return nil
}

func (p *printer) subject(s *apiv1.SubjectEvidence) {
	title := s.GetKind()
	if s.GetName() != "" && s.GetName() != s.GetKind() {
		title += " " + s.GetName()
	}
	if s.GetKey() != "" && s.GetKey() != s.GetName() && s.GetKey() != s.GetKind() {
		title += " (" + s.GetKey() + ")"
	}
	if s.GetPodUid() != "" {
		title += ", pod " + s.GetPodUid()
	}
	p.heading(title)
	var (
		rows  [][]cell
		never []string
	)
	for _, it := range s.GetItems() {
		if it.GetState() == "not applicable" {
			never = append(never, it.GetItem())
			continue
		}
		value := cell{measured(it), plain}
		if it.GetState() != "value" {
			value.style = blind
		}
		rows = append(rows, []cell{text(it.GetItem()), value, text(p.age(it.GetObservedAt())), {it.GetRung(), faint}})
	}
	if len(rows) > 0 {
		p.table(2, []column{{head: "ITEM"}, {head: "VALUE", wrap: true}, {head: "SEEN"}, {head: "BY", wrap: true}}, rows)
	}
	if len(never) > 0 {
		p.para(span{"  not applicable:", faint}, 18, span{strings.Join(never, ", "), faint})
	}
}

// measured says an item's value, or why there is none.
func measured(it *apiv1.EvidenceItem) string {
	if it.GetState() != "value" {
		s := it.GetState()
		if it.GetReason() != "" {
			s += ": " + it.GetReason()
		}
		if it.GetDetail() != "" {
			s += "; " + it.GetDetail()
		}
		return s
	}
	s := valueText(it.GetValue())
	if _, isNumber := it.GetValue().GetKind().(*structpb.Value_NumberValue); isNumber && it.GetUncertainty() > 0 {
		s += " ± " + number(it.GetUncertainty())
	}
	if it.GetUnit() != "" {
		s += " " + it.GetUnit()
	}
	return s
}

func valueText(v *structpb.Value) string {
	switch k := v.GetKind().(type) {
	case *structpb.Value_NumberValue:
		return number(k.NumberValue)
	case *structpb.Value_StringValue:
		if k.StringValue == "" {
			return `""`
		}
		return k.StringValue
	case *structpb.Value_BoolValue:
		return strconv.FormatBool(k.BoolValue)
	case *structpb.Value_ListValue:
		var parts []string
		for _, e := range k.ListValue.GetValues() {
			parts = append(parts, valueText(e))
		}
		return strings.Join(parts, ", ")
	case *structpb.Value_StructValue:
		return structText(k.StructValue)
	default:
		return "no value"
	}
}

// structText lists the fields of s in order of their names.
func structText(s *structpb.Struct) string {
	names := slices.Sorted(maps.Keys(s.GetFields()))
	for i, name := range names {
		names[i] = name + " = " + valueText(s.GetFields()[name])
	}
	return strings.Join(names, ", ")
}
