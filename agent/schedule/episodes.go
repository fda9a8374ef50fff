// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"sort"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// episodes decides, from the conditions that hold at each successful sample of
// one probe, which episodes open and which close. A failed sample decides
// nothing: an episode stays open while the probe cannot see.
type episodes struct {
	cfg  Config
	open map[conditionKey]*evidencev1.Episode
}

type conditionKey struct{ condition, kind, key string }

func newEpisodes(cfg Config) *episodes {
	return &episodes{cfg: cfg, open: map[conditionKey]*evidencev1.Episode{}}
}

// update returns the transitions, in a stable order.
func (e *episodes) update(active []evidence.ActiveCondition, now uint64) []*evidencev1.Episode {
	var out []*evidencev1.Episode
	holds := make(map[conditionKey]bool, len(active))
	for _, a := range active {
		k := conditionKey{a.Condition, a.Subject.Kind, a.Subject.Key}
		if holds[k] {
			continue
		}
		holds[k] = true
		if _, already := e.open[k]; already {
			continue
		}
		onset := a.OnsetBoottime
		if onset == 0 || onset > now {
			onset = now
		}
		episode := &evidencev1.Episode{
			Id:                       evidence.EpisodeID(e.cfg.NodeUID, e.cfg.BootID, a.Condition, a.Subject.Kind, a.Subject.Key, onset),
			Condition:                a.Condition,
			Subject:                  a.Subject.Proto(),
			BootId:                   e.cfg.BootID,
			OnsetBoottimeNanoseconds: onset,
			OnsetClaimedAt:           timestamppb.New(e.cfg.Clock.Now().Add(-time.Duration(now - onset))),
			Items:                    a.Items,
		}
		e.open[k] = episode
		e.cfg.Ledger.SetOpen(episode.GetId(), true)
		out = append(out, episode)
	}
	for k, episode := range e.open {
		if holds[k] {
			continue
		}
		delete(e.open, k)
		e.cfg.Ledger.SetOpen(episode.GetId(), false)
		out = append(out, &evidencev1.Episode{
			Id:                        episode.GetId(),
			Condition:                 episode.GetCondition(),
			Subject:                   episode.GetSubject(),
			BootId:                    episode.GetBootId(),
			OnsetBoottimeNanoseconds:  episode.GetOnsetBoottimeNanoseconds(),
			OnsetClaimedAt:            episode.GetOnsetClaimedAt(),
			ClosedBoottimeNanoseconds: now,
			ClosedClaimedAt:           timestamppb.New(e.cfg.Clock.Now()),
			Items:                     episode.GetItems(),
		})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].GetId() < out[j].GetId() })
	return out
}
