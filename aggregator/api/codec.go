// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// codec is JSON in which nothing is left out: a verdict that is not resolved
// says "resolvedAt": null, and an empty list is a list. A reader that looks for
// a field must not have to know what leaving it out means.
type codec struct{ name string }

func (c codec) Name() string { return c.name }

func (codec) Marshal(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("write JSON: %T is no message", v)
	}
	return marshal(m)
}

func (codec) Unmarshal(data []byte, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("read JSON: %T is no message", v)
	}
	if len(data) == 0 {
		return nil
	}
	// An unknown field is an error: a mistyped filter would select everything.
	return protojson.Unmarshal(data, m)
}

func marshal(m proto.Message) ([]byte, error) {
	data, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("write JSON: %w", err)
	}
	// protojson varies its white space on purpose; readers compare.
	var out bytes.Buffer
	if err := json.Compact(&out, data); err != nil {
		return nil, fmt.Errorf("write JSON: %w", err)
	}
	return out.Bytes(), nil
}
