// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/aggregator/api/v1/apiv1connect"
)

// A client asks one aggregator. Its errors are ready to be shown: what was
// asked, why it failed, the mend.
type client struct {
	rpc     apiv1connect.QueryServiceClient
	http    *http.Client
	server  string
	timeout time.Duration
}

func newClient(server string, timeout time.Duration) (*client, error) {
	u, err := url.Parse(server)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("read --server: %q is not a URL such as http://127.0.0.1:9952", server)
	}
	if timeout <= 0 {
		return nil, fmt.Errorf("read --timeout: %s is not a positive duration such as 10s", timeout)
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		// A watch may be silent for hours; keep-alive finds a dead peer in 15 s.
		DialContext: (&net.Dialer{Timeout: timeout, KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 2,
		}}).DialContext,
		TLSHandshakeTimeout: timeout,
		IdleConnTimeout:     30 * time.Second,
	}
	h := &http.Client{Transport: transport}
	return &client{
		rpc:     apiv1connect.NewQueryServiceClient(h, server),
		http:    h,
		server:  strings.TrimRight(server, "/"),
		timeout: timeout,
	}, nil
}

func (c *client) close() { c.http.CloseIdleConnections() }

// ask does one unary call within the time limit.
func ask[Req, Res any](ctx context.Context, c *client, call func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error), req *Req) (*Res, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	res, err := call(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, c.explain(err)
	}
	return res.Msg, nil
}

func (c *client) nodes(ctx context.Context) (*apiv1.ListNodesResponse, error) {
	return ask(ctx, c, c.rpc.ListNodes, &apiv1.ListNodesRequest{})
}

func (c *client) verdicts(ctx context.Context, req *apiv1.ListVerdictsRequest) (*apiv1.ListVerdictsResponse, error) {
	return ask(ctx, c, c.rpc.ListVerdicts, req)
}

func (c *client) signatures(ctx context.Context) (*apiv1.ListSignaturesResponse, error) {
	return ask(ctx, c, c.rpc.ListSignatures, &apiv1.ListSignaturesRequest{})
}

// explain turns what went wrong on the way into one line with the mend. What
// the aggregator itself answered is shown in its own words.
func (c *client) explain(err error) error {
	var op *net.OpError
	switch code := connect.CodeOf(err); {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("reach the aggregator at %s: connection refused: nothing listens there; start it, forward its port (kubectl port-forward), or set --server or PLUMB_SERVER", c.server)
	case code == connect.CodeDeadlineExceeded:
		return fmt.Errorf("ask the aggregator at %s: no answer within %s; see whether it is overloaded, or raise --timeout", c.server, c.timeout)
	case errors.As(err, &op):
		return fmt.Errorf("reach the aggregator at %s: %w; see --server or PLUMB_SERVER", c.server, op.Err)
	case code == connect.CodeUnimplemented:
		return fmt.Errorf("ask the aggregator at %s: what listens there is not its read API (%s); see --server and the aggregator's --api-address", c.server, message(err))
	case code == connect.CodePermissionDenied:
		return fmt.Errorf("ask the aggregator at %s: it refused: %s; name it as 127.0.0.1 or localhost, or start it with --allowed-host", c.server, message(err))
	case code == connect.CodeUnavailable || code == connect.CodeUnknown || !connect.IsWireError(err):
		// Also a stream that broke off, for which connect has codes of its own.
		return fmt.Errorf("reach the aggregator at %s: %s; see --server or PLUMB_SERVER", c.server, message(err))
	default:
		return &answerError{code: code, text: fmt.Sprintf("ask the aggregator at %s: %s", c.server, message(err))}
	}
}

// An answerError is a refusal by the aggregator itself.
type answerError struct {
	code connect.Code
	text string
}

func (e *answerError) Error() string { return e.text }

// notFound says whether the aggregator does not know what was asked for.
func notFound(err error) bool {
	var a *answerError
	return errors.As(err, &a) && a.code == connect.CodeNotFound
}

// message is an error's text without connect's code in front.
func message(err error) string {
	var ce *connect.Error
	if errors.As(err, &ce) {
		return ce.Message()
	}
	return err.Error()
}
