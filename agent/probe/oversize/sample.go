// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/plumb-dev/plumb/agent/probe/link"
	"github.com/plumb-dev/plumb/bpf"
	"github.com/plumb-dev/plumb/evidence"
)

// reIgnore is after how long an ignored network namespace is looked at again, in
// nanoseconds: its inode may be that of a new namespace by then.
const reIgnore = uint64(60e9)

// sight is what the hooks let a sample see.
type sight struct {
	now uint64
	// drops, sites and adapt are empty, or say why the kernel's drops, the names of
	// functions, or adapted packets cannot be seen.
	drops, sites, adapt string
	watched             uint64
	rung                string
}

// warming is true while a zero means only that the watch is young.
func (s sight) warming() bool { return s.watched < window }

// Sample reports every drop site of the last ten minutes, the node's overlays,
// and the node's fragment counters.
func (p *Probe) Sample(ctx context.Context, dst *evidence.Sample) error {
	s := p.look()
	errs := []error{p.sampleFragments(dst, s)}
	if s.drops != "" {
		p.sampleBlind(dst, s)
		return errors.Join(errs...)
	}
	overlays := p.inventory().Overlays()
	errs = append(errs, p.kernel.SetTunnelPorts(tunnelPorts(overlays)))
	r, err := p.read(ctx, s.now)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	p.locator.devices = p.inventory()
	res := p.table.order(r, p.locator)
	errs = append(errs, p.sampleNode(dst, s, res))
	samplePlaces(dst, s, res)
	for _, d := range p.inventory().Overlays() {
		if res.ambiguous[d.Key()] {
			blindOverlay(observeOverlay(dst, s, d), "packets of this overlay or of another of its kind were dropped; nothing tells which")
			continue
		}
		sampleOverlay(dst, s, d, res.overlays[d.Key()])
	}
	for k := range res.gone {
		errs = append(errs, p.kernel.DeleteDrop(k))
	}
	for k, v := range r.flows {
		if res.gone[v.Row] {
			errs = append(errs, p.kernel.DeleteFlow(k))
		}
	}
	for _, k := range stale(r, p.capacity()) {
		errs = append(errs, p.kernel.DeleteDrop(k))
	}
	return errors.Join(errs...)
}

// look brings the hooks up to date and says what they see.
func (p *Probe) look() sight {
	if p.kernel != nil {
		p.loadSites()
		p.mu.Lock()
		confirmed := p.watchedSince != 0
		p.mu.Unlock()
		if !confirmed {
			p.confirm()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := sight{now: p.cfg.Clock.Boottime(), sites: p.siteDetail, rung: p.dropRung()}
	switch {
	case p.kernel == nil:
		s.drops = p.blind
	case p.watchedSince == 0:
		s.drops = p.dropDetail
	default:
		s.watched = s.now - p.watchedSince
	}
	switch {
	case !p.adaptConfirmed:
		s.adapt = p.adaptDetail
	case !p.watching:
		s.adapt = "nobody runs the probe's Watch, which follows flows after a drop"
	}
	return s
}

func (p *Probe) capacity() int {
	if n := p.cfg.BPF.MaxDrops; n > 0 {
		return int(n)
	}
	return defaultRows
}

// defaultRows is max_entries of the map drops in bpf/include/maps.bpf.h.
const defaultRows = 4096

// read copies the kernel's maps, without what belongs to other nodes.
func (p *Probe) read(ctx context.Context, now uint64) (reading, error) {
	r := reading{now: now}
	var err error
	if r.rows, err = p.kernel.Drops(); err != nil {
		return r, err
	}
	if r.flows, err = p.kernel.Flows(); err != nil {
		return r, err
	}
	p.refresh(ctx, r)
	return r, p.withoutOthers(r)
}

// refresh looks at namespaces, and if need be at devices, again when something was
// dropped that is younger than the last look.
func (p *Probe) refresh(ctx context.Context, r reading) {
	inventory, view := p.inventory(), p.cfg.NodeView
	var strange []uint32
	missing := false
	for k, v := range r.rows {
		if v.LastNs < p.refreshed {
			continue
		}
		if view.Filtered() && !view.Contains(k.Netns) {
			strange = append(strange, k.Netns)
			continue
		}
		if _, ok := inventory.Device(k.LimitNetns, int(k.LimitIfindex)); !ok && k.LimitIfindex != 0 {
			missing = true
		}
	}
	if len(strange) == 0 && !missing {
		return
	}
	// One attempt per new drop: what is not found then has gone.
	p.refreshed = r.now
	if !missing {
		// Most often the namespace is another node's, which the list of namespaces
		// tells for a fraction of what the devices cost.
		if err := view.Refresh(ctx); err != nil {
			p.log.Warn("The node's network namespaces cannot be listed anew", "error", err)
		}
		if !slices.ContainsFunc(strange, view.Contains) {
			return
		}
	}
	// It lists the namespaces as well.
	if err := p.cfg.Inventory.Refresh(ctx); err != nil {
		p.log.Warn("The node's devices cannot be listed anew", "error", err)
	}
}

// withoutOthers takes drops of other nodes on the same kernel out of r and makes
// the program pass over their namespaces.
func (p *Probe) withoutOthers(r reading) error {
	var errs []error
	view := p.cfg.NodeView
	for netns, since := range p.ignored {
		if r.now-since >= reIgnore || !view.Filtered() || view.Contains(netns) {
			errs = append(errs, p.kernel.Heed(netns))
			delete(p.ignored, netns)
		}
	}
	if !view.Filtered() {
		return errors.Join(errs...)
	}
	for k := range r.rows {
		if view.Contains(k.Netns) {
			continue
		}
		if _, ok := p.ignored[k.Netns]; !ok {
			p.ignored[k.Netns] = r.now
			errs = append(errs, p.kernel.Ignore(k.Netns))
		}
		delete(r.rows, k)
		errs = append(errs, p.kernel.DeleteDrop(k))
	}
	for k, v := range r.flows {
		if !view.Contains(v.Row.Netns) {
			delete(r.flows, k)
			errs = append(errs, p.kernel.DeleteFlow(k))
		}
	}
	return errors.Join(errs...)
}

func (p *Probe) sampleFragments(dst *evidence.Sample, s sight) error {
	o := dst.Observe(evidence.Node(), "/proc/net/snmp")
	now, err := readFragments(p.cfg.ProcPath)
	if err != nil {
		evidence.Unknown(o, evidence.OversizeOuterFragmentsWindow, evidence.Failed, err.Error())
		evidence.Unknown(o, evidence.OversizeFragmentFailuresWindow, evidence.Failed, err.Error())
		return err
	}
	if p.counted == nil {
		p.counted, p.countedAt = &now, s.now
	}
	young := s.now-p.countedAt < window
	report := func(id evidence.IntegerID, grown uint64) {
		if grown == 0 && young {
			evidence.Unknown(o, id, evidence.WarmingUp, "read for less than 30 s")
			return
		}
		o.Integer(id, int64(grown))
	}
	report(evidence.OversizeOuterFragmentsWindow, p.creates.add(s.now, now.creates, p.counted.creates))
	report(evidence.OversizeFragmentFailuresWindow, p.fails.add(s.now, now.fails, p.counted.fails))
	return nil
}

// nodeObservation is the node's, begun by sampleFragments.
func nodeObservation(dst *evidence.Sample, rung string) *evidence.Observation {
	for _, o := range dst.Observations {
		if o.Subject == evidence.Node() {
			return o.Via(rung)
		}
	}
	return dst.Observe(evidence.Node(), rung)
}

func (p *Probe) sampleNode(dst *evidence.Sample, s sight, res result) error {
	o := nodeObservation(dst, s.rung)
	o.Number(evidence.OversizeWatchedSeconds, float64(s.watched)/1e9, 0)
	counts, err := p.kernel.Counters()
	if err != nil {
		evidence.Unknown(o, evidence.OversizeUncountedTotal, evidence.Failed, err.Error())
		return err
	}
	lost := counts[bpf.CountOverflow] + counts[bpf.CountByFrags] + counts[bpf.CountFailed] + res.unjudged
	o.Integer(evidence.OversizeUncountedTotal, int64(lost))
	return nil
}

func (p *Probe) sampleBlind(dst *evidence.Sample, s sight) {
	o := nodeObservation(dst, s.rung)
	evidence.Unknown(o, evidence.OversizeWatchedSeconds, evidence.Blind, s.drops)
	evidence.Unknown(o, evidence.OversizeUncountedTotal, evidence.Blind, s.drops)
	for _, d := range p.inventory().Overlays() {
		blindOverlay(observeOverlay(dst, s, d), s.drops)
	}
}

func samplePlaces(dst *evidence.Sample, s sight, res result) {
	keys := slices.SortedFunc(maps.Keys(res.places), func(a, b placeKey) int {
		return strings.Compare(a.subject("").Key, b.subject("").Key)
	})
	for _, k := range keys {
		samplePlace(dst, s, res.places[k])
	}
}

func samplePlace(dst *evidence.Sample, s sight, t *tally) {
	p := t.place
	o := dst.Observe(p.key.subject(p.device), s.rung)
	if p.key.function == unknownFunction {
		evidence.Unknown(o, evidence.OversizeSite, evidence.Blind, siteBlindness(s))
	} else {
		o.Text(evidence.OversizeSite, p.key.function)
	}
	if p.reason == "" {
		evidence.NotApplicable(o, evidence.OversizeReason, "this kernel gives no drop reasons (they came with 5.17)")
	} else {
		o.Text(evidence.OversizeReason, p.reason)
	}
	o.Integer(evidence.OversizeDropsTotal, int64(t.total))
	o.Integer(evidence.OversizeDropsWindow, int64(t.window))
	o.Integer(evidence.OversizeLengthMinBytes, int64(t.lenMin))
	o.Integer(evidence.OversizeLengthMaxBytes, int64(t.lenMax))
	if t.limit == 0 {
		const why = "the reason says too big, but neither route nor device has a limit that explains it"
		evidence.Unknown(o, evidence.OversizeLimitBytes, evidence.Blind, why)
		evidence.Unknown(o, evidence.OversizeLimitSource, evidence.Blind, why)
	} else {
		o.Integer(evidence.OversizeLimitBytes, int64(t.limit))
		o.Text(evidence.OversizeLimitSource, p.limitSource)
	}
	o.Text(evidence.OversizeFamily, p.key.family)
	if p.known {
		o.Flag(evidence.OversizeEmitsICMP, p.icmp)
	} else {
		evidence.Unknown(o, evidence.OversizeEmitsICMP, evidence.Blind, siteBlindness(s))
	}
	samplePlaceStall(dst, s, o, t)
}

func siteBlindness(s sight) string {
	if s.sites != "" {
		return s.sites
	}
	return "the function that dropped is not in the table of size checks"
}

func samplePlaceStall(dst *evidence.Sample, s sight, o *evidence.Observation, t *tally) {
	o.Via(adaptRung)
	if s.adapt != "" {
		evidence.Unknown(o, evidence.OversizeStalledFlowDrops, evidence.Blind, s.adapt)
		evidence.Unknown(o, evidence.OversizeStalledFlowSpanSeconds, evidence.Blind, s.adapt)
		evidence.Unknown(o, evidence.OversizeStalledFlow, evidence.Blind, s.adapt)
		evidence.Unknown(o, evidence.OversizeAdaptedFlowsWindow, evidence.Blind, s.adapt)
		return
	}
	o.Integer(evidence.OversizeStalledFlowDrops, int64(t.worst.drops))
	o.Number(evidence.OversizeStalledFlowSpanSeconds, float64(t.worst.span)/1e9, 0)
	if t.worst.drops == 0 {
		evidence.NotApplicable(o, evidence.OversizeStalledFlow, "no flow was dropped here within 30 s without adapting since")
	} else {
		o.Text(evidence.OversizeStalledFlow, flowText(t.worst.flow))
	}
	o.Integer(evidence.OversizeAdaptedFlowsWindow, int64(t.adapted))
	if t.worst.called() {
		dst.Hold(evidence.ConditionOversizeStalledFlow, o, t.worst.onset)
	}
}

func observeOverlay(dst *evidence.Sample, s sight, d link.Device) *evidence.Observation {
	return dst.Observe(evidence.Subject{Kind: evidence.SubjectDevice, Key: d.Key(), Name: d.Name, PodUID: d.PodUID}, s.rung)
}

func blindOverlay(o *evidence.Observation, why string) {
	for _, id := range []evidence.IntegerID{
		evidence.OversizeEncapsulatedDropsTotal, evidence.OversizeEncapsulatedDropsWindow,
		evidence.OversizeEncapsulatedLengthMaxBytes, evidence.OversizeEncapsulatedLengthMinBytes,
		evidence.OversizeEncapsulatedLimitBytes, evidence.OversizeEncapsulatedStalledFlowDrops,
	} {
		evidence.Unknown(o, id, evidence.Blind, why)
	}
	evidence.Unknown(o, evidence.OversizeEncapsulatedStalledFlowSpanSeconds, evidence.Blind, why)
	evidence.Unknown(o, evidence.OversizeEncapsulatedSite, evidence.Blind, why)
	evidence.Unknown(o, evidence.OversizeEncapsulatedSenderIsPod, evidence.Blind, why)
}

func sampleOverlay(dst *evidence.Sample, s sight, d link.Device, t *tally) {
	o := observeOverlay(dst, s, d)
	if s.sites != "" {
		blindOverlay(o, s.sites)
		return
	}
	if t == nil {
		t = &tally{}
	}
	count := func(id evidence.IntegerID, n uint64) {
		if n == 0 && s.warming() {
			evidence.Unknown(o, id, evidence.WarmingUp, "watched for less than 30 s")
			return
		}
		o.Integer(id, int64(n))
	}
	count(evidence.OversizeEncapsulatedDropsTotal, t.total)
	count(evidence.OversizeEncapsulatedDropsWindow, t.window)
	if t.total == 0 {
		const why = "nothing was dropped"
		for _, id := range []evidence.IntegerID{
			evidence.OversizeEncapsulatedLengthMaxBytes, evidence.OversizeEncapsulatedLengthMinBytes,
			evidence.OversizeEncapsulatedLimitBytes,
		} {
			evidence.NotApplicable(o, id, why)
		}
		evidence.NotApplicable(o, evidence.OversizeEncapsulatedSite, why)
		evidence.NotApplicable(o, evidence.OversizeEncapsulatedSenderIsPod, why)
	} else {
		o.Integer(evidence.OversizeEncapsulatedLengthMaxBytes, int64(t.lenMax))
		o.Integer(evidence.OversizeEncapsulatedLengthMinBytes, int64(t.lenMin))
		if t.limit == 0 {
			evidence.Unknown(o, evidence.OversizeEncapsulatedLimitBytes, evidence.Blind, "neither route nor device has a limit that explains the drops")
		} else {
			o.Integer(evidence.OversizeEncapsulatedLimitBytes, int64(t.limit))
		}
		o.Text(evidence.OversizeEncapsulatedSite, t.site)
		o.Flag(evidence.OversizeEncapsulatedSenderIsPod, t.senderIsPod)
	}
	sampleOverlayStall(s, o, d, t)
	if t.window > 0 {
		dst.Hold(evidence.ConditionOversizeEncapsulatedDrops, o, t.onset)
	}
}

func sampleOverlayStall(s sight, o *evidence.Observation, d link.Device, t *tally) {
	o.Via(adaptRung)
	why := s.adapt
	if why == "" && d.Encapsulation == "wireguard" {
		why = "WireGuard encrypts the flows inside; one flow outside carries them all"
	}
	switch {
	case why != "":
		evidence.Unknown(o, evidence.OversizeEncapsulatedStalledFlowDrops, evidence.Blind, why)
		evidence.Unknown(o, evidence.OversizeEncapsulatedStalledFlowSpanSeconds, evidence.Blind, why)
	case t.worst.drops == 0 && s.warming():
		evidence.Unknown(o, evidence.OversizeEncapsulatedStalledFlowDrops, evidence.WarmingUp, "watched for less than 30 s")
		evidence.Unknown(o, evidence.OversizeEncapsulatedStalledFlowSpanSeconds, evidence.WarmingUp, "watched for less than 30 s")
	default:
		o.Integer(evidence.OversizeEncapsulatedStalledFlowDrops, int64(t.worst.drops))
		o.Number(evidence.OversizeEncapsulatedStalledFlowSpanSeconds, float64(t.worst.span)/1e9, 0)
	}
}
