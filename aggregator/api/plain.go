// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
)

// plain adds the GET endpoints: the same answers for a curl without a body.
func (s *Service) plain(mux *http.ServeMux) {
	get := func(path string, parameters []string, answer func(r *http.Request) (proto.Message, error)) {
		mux.HandleFunc("GET /api/v1/"+path, func(w http.ResponseWriter, r *http.Request) {
			if err := onlyParameters(r.URL.Query(), parameters); err != nil {
				fail(w, err)
				return
			}
			m, err := answer(r)
			if err != nil {
				fail(w, err)
				return
			}
			data, err := marshal(m)
			if err != nil {
				fail(w, err)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(append(data, '\n')) // the reader is gone
		})
	}
	get("nodes", nil, func(r *http.Request) (proto.Message, error) {
		return unary(r, s.ListNodes, &apiv1.ListNodesRequest{})
	})
	get("nodes/{node}", nil, func(r *http.Request) (proto.Message, error) {
		return unary(r, s.ExplainNode, &apiv1.ExplainNodeRequest{Node: r.PathValue("node")})
	})
	get("nodes/{node}/evidence", nil, func(r *http.Request) (proto.Message, error) {
		return unary(r, s.GetEvidence, &apiv1.GetEvidenceRequest{Node: r.PathValue("node")})
	})
	get("verdicts", []string{"node", "signature", "includeResolved"}, func(r *http.Request) (proto.Message, error) {
		q := r.URL.Query()
		resolved := false
		if text := q.Get("includeResolved"); text != "" {
			v, err := strconv.ParseBool(text)
			if err != nil {
				return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("list verdicts: includeResolved is %q; use true or false", text))
			}
			resolved = v
		}
		return unary(r, s.ListVerdicts, &apiv1.ListVerdictsRequest{Node: q.Get("node"), Signature: q.Get("signature"), IncludeResolved: resolved})
	})
	get("verdicts/{id}", nil, func(r *http.Request) (proto.Message, error) {
		return unary(r, s.GetVerdict, &apiv1.GetVerdictRequest{Id: r.PathValue("id")})
	})
	get("episodes", []string{"node"}, func(r *http.Request) (proto.Message, error) {
		return unary(r, s.ListEpisodes, &apiv1.ListEpisodesRequest{Node: r.URL.Query().Get("node")})
	})
	get("signatures", nil, func(r *http.Request) (proto.Message, error) {
		return unary(r, s.ListSignatures, &apiv1.ListSignaturesRequest{})
	})
}

func unary[Q, A any](r *http.Request, call func(context.Context, *connect.Request[Q]) (*connect.Response[A], error), req *Q) (proto.Message, error) {
	res, err := call(r.Context(), connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	m, ok := any(res.Msg).(proto.Message)
	if !ok {
		return nil, fmt.Errorf("answer: %T is no message", res.Msg)
	}
	return m, nil
}

// onlyParameters refuses a parameter that would be ignored: a mistyped filter
// would select everything.
func onlyParameters(q url.Values, known []string) error {
	for name := range q {
		if !slices.Contains(known, name) {
			return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("unknown parameter %q; known are: %v", name, known))
		}
	}
	return nil
}

// fail answers with the same JSON as connect does.
func fail(w http.ResponseWriter, err error) {
	status, code, message := http.StatusInternalServerError, connect.CodeOf(err), err.Error()
	if e := new(connect.Error); errors.As(err, &e) {
		message = e.Message()
	}
	switch code {
	case connect.CodeNotFound:
		status = http.StatusNotFound
	case connect.CodeInvalidArgument:
		status = http.StatusBadRequest
	}
	body, marshalErr := json.Marshal(map[string]string{"code": code.String(), "message": message})
	if marshalErr != nil {
		body = []byte(`{"code":"internal"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the reader is gone
}
