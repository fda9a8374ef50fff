// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/plumb-dev/plumb/test/lab/judge"
	"github.com/plumb-dev/plumb/test/lab/scenario"
)

// FaultWords says in one phrase what a fault does and where.
func FaultWords(f scenario.Fault) string {
	on := "on " + names(f.Nodes)
	if !f.Selected && len(f.BetweenNames) == 0 {
		on = "on every node"
	}
	path := "everywhere"
	if len(f.BetweenNames) == 2 {
		path = "between " + f.BetweenNames[0] + " and " + f.BetweenNames[1]
		switch f.Direction {
		case scenario.Forward:
			path = "from " + f.BetweenNames[0] + " to " + f.BetweenNames[1]
		case scenario.Reverse:
			path = "from " + f.BetweenNames[1] + " to " + f.BetweenNames[0]
		}
	} else if f.Selected {
		path = "to and from " + names(f.Nodes)
		switch f.Direction {
		case scenario.Forward:
			path = "from " + names(f.Nodes)
		case scenario.Reverse:
			path = "to " + names(f.Nodes)
		}
	}
	servers := "every time server"
	if f.Server >= 0 {
		servers = "time server " + strconv.Itoa(f.Server)
	}
	device := f.Device
	if device == "" {
		device = "eth0"
	}
	switch f.Kind {
	case scenario.PathDropLarger:
		how := "silently"
		if f.ICMP {
			how = "and says so by ICMP"
		}
		return fmt.Sprintf("the fabric drops packets over %d bytes %s, %s", f.Bytes, path, how)
	case scenario.PathLoss:
		return fmt.Sprintf("the fabric loses %s of the packets %s", percent(f.Ratio), path)
	case scenario.PathDropFragments:
		return "the fabric drops IP fragments " + path
	case scenario.PathCut:
		return "nothing passes " + path
	case scenario.PathRate:
		return fmt.Sprintf("a policer lets through %s %s", rate(f.BitsPerSecond), path)
	case scenario.PathFlap:
		return fmt.Sprintf("the way %s changes every %s", path, f.Every)
	case scenario.ICMPFilter:
		return fmt.Sprintf("the %s drops ICMP frag-needed %s", orElse(f.In, "node"), on)
	case scenario.UnderlayMTU:
		return fmt.Sprintf("the underlay's MTU becomes %d %s", f.MTU, on)
	case scenario.OverlayMTU:
		return fmt.Sprintf("the overlay's MTU becomes %d %s", f.MTU, on)
	case scenario.PodMTU:
		return fmt.Sprintf("the pods' MTU becomes %d %s", f.MTU, on)
	case scenario.BridgePortMTU:
		return fmt.Sprintf("the bridge ports' MTU becomes %d %s", f.MTU, on)
	case scenario.LinkDown:
		return fmt.Sprintf("%s goes down %s", device, on)
	case scenario.LinkFlap:
		return fmt.Sprintf("%s goes down and up every %s %s", device, f.Every, on)
	case scenario.RingDrop:
		return fmt.Sprintf("the interface drops %s of what it receives %s", percent(f.Ratio), on)
	case scenario.ClockOffset:
		return "the agent sees a clock that " + clock(f) + " " + on
	case scenario.NTPLies:
		return fmt.Sprintf("%s answers %s wrong", servers, signed(f.Offset))
	case scenario.NTPCut:
		return servers + " answers no more"
	case scenario.NTPSmear:
		return servers + " smears a leap second"
	case scenario.IMDS:
		return fmt.Sprintf("the metadata server: %s, %s", orElse(f.Mode, "timeout"), on)
	case scenario.DiskSlow:
		return "etcd's disk " + disk(f) + " " + on
	case scenario.EtcdCPUStarved:
		return "etcd gets no CPU time, while its disk is well, " + on
	case scenario.APISlow:
		where := on
		if f.Zone != "" {
			where = "in zone " + f.Zone
		}
		return fmt.Sprintf("the API endpoint answers %s late %s", f.Delay, where)
	case scenario.DNSBroken:
		if f.Mode == "large" {
			return "large DNS answers do not arrive"
		}
		return "DNS does not answer"
	case scenario.AgentKill:
		return "the agent is killed " + on
	case scenario.AgentFreeze:
		return "the agent is frozen " + on
	case scenario.AggregatorKill:
		return "the aggregator is killed"
	case scenario.AggregatorCut:
		return "nobody reaches the aggregator"
	case scenario.TokenExpired:
		return "the agent's token has expired " + on
	case scenario.TokenWrongNode:
		return "the agent's token is another node's " + on
	case scenario.ReceiverSlow:
		return "no fault: receivers read slowly " + on
	case scenario.ReceiverFrozen:
		return "no fault: receivers do not read at all " + on
	case scenario.QUICProbes:
		return "no fault: QUIC probes the path MTU " + on
	case scenario.TCPTeardownStorm:
		return "no fault: many TCP connections are torn down " + on
	default:
		return string(f.Kind) + " " + on
	}
}

func clock(f scenario.Fault) string {
	var parts []string
	if f.Offset != 0 {
		how := "is off by "
		if f.Step {
			how = "jumps by "
		}
		parts = append(parts, how+signed(f.Offset))
	}
	if f.Drift != 0 {
		parts = append(parts, fmt.Sprintf("drifts by %+g ppm", f.Drift))
	}
	if f.StepBy != 0 {
		parts = append(parts, "jumps by "+signed(f.StepBy))
	}
	if len(parts) == 0 {
		return "is not touched"
	}
	return strings.Join(parts, " and ")
}

func disk(f scenario.Fault) string {
	var parts []string
	if f.Fsync > 0 {
		parts = append(parts, "takes "+f.Fsync.String()+" for an fsync")
	}
	if f.IOPS > 0 {
		parts = append(parts, fmt.Sprintf("is capped at %d operations per second", f.IOPS))
	}
	if f.Neighbour {
		parts = append(parts, "is shared with a noisy writer")
	}
	if len(parts) == 0 {
		return "is slow"
	}
	return strings.Join(parts, " and ")
}

func signed(d time.Duration) string {
	if d > 0 {
		return "+" + d.String()
	}
	return d.String()
}

func percent(ratio float64) string {
	return strconv.FormatFloat(round(100*ratio), 'f', -1, 64) + " %"
}

func rate(bits int64) string {
	switch {
	case bits >= 1e9 && bits%1e6 == 0:
		return strconv.FormatFloat(float64(bits)/1e9, 'f', -1, 64) + " Gbit/s"
	case bits >= 1e6 && bits%1e3 == 0:
		return strconv.FormatFloat(float64(bits)/1e6, 'f', -1, 64) + " Mbit/s"
	default:
		return strconv.FormatFloat(float64(bits)/1e3, 'f', -1, 64) + " kbit/s"
	}
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// shownNames is how many names a phrase lists.
const shownNames = 4

// names joins names with commas and "and".
func names(list []string) string {
	switch {
	case len(list) == 0:
		return "none"
	case len(list) == 1:
		return list[0]
	case len(list) > shownNames:
		return fmt.Sprintf("%s and %d more", strings.Join(list[:shownNames-1], ", "), len(list)-shownNames+1)
	}
	return strings.Join(list[:len(list)-1], ", ") + " and " + list[len(list)-1]
}

// where says a scope in words.
func where(s judge.Scope) string {
	switch s.Kind {
	case "Node":
		return "on " + names(s.Nodes)
	case "Device":
		return s.Device + " on " + names(s.Nodes)
	case "Pod":
		return "pod " + s.Pod + " on " + names(s.Nodes)
	case "NodePair":
		return "between nodes " + names(s.Nodes)
	case "ZonePair":
		return "between zones " + names(s.Zones)
	case "Zone":
		return "in zone " + names(s.Zones)
	case "Pool":
		return "in pool " + s.Pool
	case "Cluster":
		return "in the whole cluster"
	default:
		return strings.TrimSpace(s.Kind + " on " + names(s.Nodes))
	}
}

// sentence makes sure that s ends as one.
func sentence(s string) string {
	s = strings.TrimSpace(s)
	if s == "" || strings.ContainsAny(s[len(s)-1:], ".!?:") {
		return s
	}
	return s + "."
}

// shortID is the part of an id that a person types.
func shortID(id string) string {
	if len(id) > 8 {
		return id[:8]
	}
	return id
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

// duration says d as an author writes it: 60s is 1m, not 1m0s.
func duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func seconds(s float64) string { return strconv.FormatFloat(s, 'f', 1, 64) + " s" }

// mebibytes says a size as top and systemd do, in binary units.
func mebibytes(bytes int64) string {
	return strconv.FormatFloat(float64(bytes)/(1<<20), 'f', 1, 64) + " MiB"
}
