// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package ingest

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/plumb-dev/plumb/aggregator/identity"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// RecordVersion is the version of EpisodeRecord that this build writes. A reader
// refuses a higher one.
const RecordVersion = 1

// EpisodeSubject is the subject under which the episodes of a node are
// published, after the prefix of the bus: "episode.<token of the node's name>".
const EpisodeSubject = "episode."

// An EpisodeRecord is what the journal holds of one opening or closing of a
// condition, as JSON. Times are the aggregator's: arrival less the age that the
// node's boottime gives, which holds however wrong the node's clock is.
//
// The same episode is recorded once when it opens and once when it closes, and
// again if an agent repeats it after the journal's memory of ids has passed; the
// records of one episode share Node.UID and ID.
type EpisodeRecord struct {
	Version int           `json:"version"`
	Node    identity.Node `json:"node"`
	// Arrival is when the batch arrived at this aggregator.
	Arrival   time.Time     `json:"arrival"`
	ID        string        `json:"id"`
	Condition string        `json:"condition"`
	Subject   SubjectRecord `json:"subject"`
	// BootID is the run of the agent that saw it.
	BootID string    `json:"bootID"`
	Onset  time.Time `json:"onset"`
	// Closed is zero while the condition holds.
	Closed time.Time `json:"closed,omitzero"`
	// Claimed is set when onset and end rest on the node's own wall clock: the
	// episode is of an earlier boot, whose boottime cannot be compared.
	Claimed bool         `json:"claimed,omitempty"`
	Items   []ItemRecord `json:"items,omitempty"`
}

// A SubjectRecord converts to and from evidence.Subject.
type SubjectRecord struct {
	Kind      string `json:"kind"`
	Key       string `json:"key"`
	Name      string `json:"name,omitempty"`
	ParentKey string `json:"parentKey,omitempty"`
	PodUID    string `json:"podUID,omitempty"`
}

// An ItemRecord is one item of the evidence that decided an episode. At most one
// of the four values is set; with none of them Unknown or NotApplicable says why.
type ItemRecord struct {
	ID   uint32 `json:"id"`
	Name string `json:"name"`
	// Integer is written as a text, for JSON's numbers have 53 bits.
	Integer       *int64   `json:"integer,omitempty,string"`
	Number        *float64 `json:"number,omitempty"`
	Text          *string  `json:"text,omitempty"`
	Flag          *bool    `json:"flag,omitempty"`
	Unknown       string   `json:"unknown,omitempty"`
	NotApplicable bool     `json:"notApplicable,omitempty"`
	Detail        string   `json:"detail,omitempty"`
	Uncertainty   float64  `json:"uncertainty,omitempty"`
	Rung          string   `json:"rung,omitempty"`
}

// Encode returns the record as the journal keeps it.
func (r *EpisodeRecord) Encode() ([]byte, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode the record of episode %s: %w", r.ID, err)
	}
	return data, nil
}

// DecodeEpisodeRecord reads a record of the journal.
func DecodeEpisodeRecord(data []byte) (EpisodeRecord, error) {
	var r EpisodeRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return EpisodeRecord{}, fmt.Errorf("decode an episode: %w", err)
	}
	switch {
	case r.Version < 1 || r.Version > RecordVersion:
		return EpisodeRecord{}, fmt.Errorf("decode an episode: it has version %d, this build reads up to %d: upgrade the aggregator", r.Version, RecordVersion)
	case r.Node.Name == "" || r.Node.UID == "" || r.ID == "" || r.Condition == "" || r.Subject.Kind == "" || r.Onset.IsZero():
		return EpisodeRecord{}, errors.New("decode an episode: node, id, condition, subject or onset is missing")
	}
	return r, nil
}

// MessageID is the id under which the record is published. It begins with the
// node's uid, so that no node can pass off its episode as another's duplicate.
func (r *EpisodeRecord) MessageID() string {
	if r.Closed.IsZero() {
		return r.Node.UID + "/" + r.ID + "/open"
	}
	return r.Node.UID + "/" + r.ID + "/closed"
}

// record turns a checked episode into a record.
func record(catalog *evidence.Catalog, node identity.Node, arrival time.Time, req *evidencev1.PushRequest, e *evidencev1.Episode) EpisodeRecord {
	r := EpisodeRecord{
		Version: RecordVersion, Node: node, Arrival: arrival.UTC(),
		ID: e.GetId(), Condition: e.GetCondition(), BootID: e.GetBootId(),
		Subject: SubjectRecord(evidence.SubjectFromProto(e.GetSubject())),
	}
	if sameKernel(e.GetBootId(), req.GetBatch().GetBootId()) {
		at := func(stamp uint64) time.Time {
			return arrival.Add(-time.Duration(req.GetSentBoottimeNanoseconds() - stamp)).UTC()
		}
		r.Onset = at(e.GetOnsetBoottimeNanoseconds())
		if c := e.GetClosedBoottimeNanoseconds(); c != 0 {
			r.Closed = at(c)
		}
	} else {
		// It cannot have begun in the future, whatever that node's clock said.
		r.Claimed = true
		r.Onset = earlier(e.GetOnsetClaimedAt().AsTime(), r.Arrival)
		if e.GetClosedBoottimeNanoseconds() != 0 {
			r.Closed = earlier(e.GetClosedClaimedAt().AsTime(), r.Arrival)
		}
	}
	for _, it := range e.GetItems() {
		r.Items = append(r.Items, itemRecord(catalog, it))
	}
	return r
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func itemRecord(catalog *evidence.Catalog, it *evidencev1.Item) ItemRecord {
	info, _ := catalog.ByID(it.GetId())
	out := ItemRecord{ID: it.GetId(), Name: info.Name, Uncertainty: it.GetUncertainty(), Rung: it.GetRung()}
	switch s := it.GetState().(type) {
	case *evidencev1.Item_Integer:
		out.Integer = &s.Integer
	case *evidencev1.Item_Number:
		out.Number = &s.Number
	case *evidencev1.Item_Text:
		out.Text = &s.Text
	case *evidencev1.Item_Flag:
		out.Flag = &s.Flag
	case *evidencev1.Item_Unknown:
		out.Unknown, out.Detail = s.Unknown.GetReason().String(), s.Unknown.GetDetail()
	case *evidencev1.Item_NotApplicable:
		out.NotApplicable, out.Detail = true, s.NotApplicable.GetDetail()
	}
	return out
}
