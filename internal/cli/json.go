// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// marshal gives the API's JSON of m: every field present, times in UTC, maps in
// order of their keys. protojson varies its white space on purpose, so it is
// normalised: one line for an empty indent.
func marshal(m proto.Message, indent string) ([]byte, error) {
	raw, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode answer as JSON: %w", err)
	}
	var b bytes.Buffer
	if indent == "" {
		err = json.Compact(&b, raw)
	} else {
		err = json.Indent(&b, raw, "", indent)
	}
	if err != nil {
		return nil, fmt.Errorf("encode answer as JSON: %w", err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// writeJSON prints one message as an indented object.
func writeJSON(w io.Writer, m proto.Message) error {
	raw, err := marshal(m, "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(raw)
	return err
}

// writeJSONLine prints one message on one line.
func writeJSONLine(w io.Writer, m proto.Message) error {
	raw, err := marshal(m, "")
	if err != nil {
		return err
	}
	_, err = w.Write(raw)
	return err
}
