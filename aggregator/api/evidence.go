// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"sort"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/aggregator/verdict"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// GetEvidence implements apiv1connect.QueryServiceHandler. Every catalogued item
// of every known subject is listed, with the reason where it is unknown; what a
// probe that is measuring leaves out for a whole subject is not.
func (s *Service) GetEvidence(_ context.Context, req *connect.Request[apiv1.GetEvidenceRequest]) (*connect.Response[apiv1.GetEvidenceResponse], error) {
	n, err := s.nodeOf(req.Msg.GetNode())
	if err != nil {
		return nil, err
	}
	out := &apiv1.GetEvidenceResponse{Node: node(n)}
	view, ok := s.cfg.State.View(n.Name)
	if !ok {
		return connect.NewResponse(out), nil
	}
	byKind := map[string][]evidence.ItemInfo{}
	var kinds []string
	for _, it := range s.cfg.Catalog.Items() {
		if byKind[it.Subject] == nil {
			kinds = append(kinds, it.Subject)
		}
		byKind[it.Subject] = append(byKind[it.Subject], it)
	}
	// The node first, then the kinds in the order of the catalogue.
	sort.SliceStable(kinds, func(i, j int) bool {
		return kinds[i] == evidence.SubjectNode && kinds[j] != evidence.SubjectNode
	})
	for _, kind := range kinds {
		for _, subject := range view.Subjects(kind) {
			se := &apiv1.SubjectEvidence{Kind: subject.Kind, Key: subject.Key, Name: subject.Name, PodUid: subject.PodUID}
			for _, it := range byKind[kind] {
				if subject.Kind != evidence.SubjectNode && !view.Observes(it.Probe(), subject.Kind, subject.Key) && view.Probe(it.Probe()).Status == state.Value {
					continue
				}
				se.Items = append(se.Items, item(it, view.Fact(subject.Kind, subject.Key, it.ID)))
			}
			out.Subjects = append(out.Subjects, se)
		}
	}
	return connect.NewResponse(out), nil
}

func item(info evidence.ItemInfo, f state.Fact) *apiv1.EvidenceItem {
	out := &apiv1.EvidenceItem{Item: info.Name, Unit: info.Unit, Rung: f.Rung, ObservedAt: stamp(f.ObservedAt)}
	switch f.Status {
	case state.Value:
		out.State, out.Uncertainty = "value", f.Uncertainty
		if v, err := structpb.NewValue(f.Value); err == nil {
			out.Value = v
		} else {
			out.State, out.Reason, out.Detail = "unknown", verdict.ReasonWord(evidence.Failed), err.Error()
		}
	case state.NotApplicable:
		out.State, out.Detail = "not applicable", f.Detail
	default:
		out.State, out.Reason, out.Detail = "unknown", verdict.ReasonWord(f.Reason), f.Detail
	}
	return out
}

func node(n state.NodeStatus) *apiv1.Node {
	out := &apiv1.Node{
		Name: n.Name, Uid: n.UID, Zone: n.Zone, Pool: n.Pool, InstanceType: n.InstanceType, Kernel: n.Kernel, Image: n.Image,
		State: n.State, LastBatchAt: stamp(n.LastBatchAt), BootId: n.BootID, Batches: n.Batches,
		DroppedEpisodes: n.Agent.GetDroppedEpisodesTotal(), AgentVersion: n.Agent.GetVersion(),
	}
	if out.Kernel == "" {
		out.Kernel = n.Agent.GetKernelRelease()
	}
	if t := n.Agent.GetTlsTime(); t != nil {
		out.TlsTimeCorrectionSeconds = t.GetCorrectionSeconds()
		switch t.GetSource() {
		case evidencev1.TLSTime_NODE_CLOCK:
			out.TlsTimeSource = "node clock"
		case evidencev1.TLSTime_MEASURED:
			out.TlsTimeSource = "measured"
		case evidencev1.TLSTime_FALLBACK:
			out.TlsTimeSource = "fallback"
		}
	}
	for _, p := range n.Probes {
		probe := &apiv1.Probe{Name: p.Name, State: probeState(p.State), Detail: p.Detail, SampledAt: stamp(p.SampledAt)}
		if n.StaleProbes[p.Name] {
			probe.State = "stale"
			if n.State == state.NodeSilent {
				probe.Detail = "the node is silent"
			} else if probe.Detail == "" {
				probe.Detail = "the last sample is too old"
			}
		}
		for _, h := range p.Hooks {
			probe.Hooks = append(probe.Hooks, &apiv1.Hook{Signal: h.Signal, Rung: h.Rung, Confirmed: h.Confirmed, Detail: h.Detail})
		}
		out.Probes = append(out.Probes, probe)
	}
	return out
}

func probeState(s evidencev1.ProbeStatus_State) string {
	switch s {
	case evidencev1.ProbeStatus_OK:
		return "ok"
	case evidencev1.ProbeStatus_FAILED:
		return "failed"
	case evidencev1.ProbeStatus_UNSUPPORTED:
		return "unsupported"
	case evidencev1.ProbeStatus_STARTING:
		return "starting"
	case evidencev1.ProbeStatus_NO_DATA:
		return "no data"
	default:
		return "unknown"
	}
}

func subjectWords(s evidence.Subject) string {
	if s.Kind == evidence.SubjectNode {
		return "node"
	}
	return strings.TrimSpace(s.Kind + " " + s.Name)
}

// stamp leaves a time that never was unset, so that JSON says null.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
