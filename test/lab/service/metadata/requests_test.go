// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// secrets are paths of credentials and the like, as the vendors name them.
func secrets() map[string]Class {
	return map[string]Class{
		"/latest/meta-data/iam/security-credentials/":                       Credentials,
		"/latest/meta-data/iam/security-credentials/node":                   Credentials,
		"/2021-07-15/meta-data/iam/security-credentials/node":               Credentials,
		"/latest/meta-data/identity-credentials/ec2/security-credentials/x": Credentials,
		"/LATEST/meta-data//iam/./Security-Credentials":                     Credentials,
		"/latest/meta-data/public-keys/0/openssh-key":                       Credentials,
		"/latest/dynamic/instance-identity/document":                        Identity,
		"/latest/user-data":  UserData,
		"/latest/user-data/": UserData,
		"/metadata/identity/oauth2/token?api-version=2018-02-01&resource=x":            Credentials,
		"/metadata/identity/info?api-version=2018-02-01":                               Credentials,
		"/metadata/attested/document?api-version=2020-09-01":                           Identity,
		"/metadata/instance/compute/userData?api-version=2021-02-01&format=text":       UserData,
		"/metadata/instance/compute/customData?api-version=2021-02-01&format=text":     UserData,
		"/computeMetadata/v1/instance/service-accounts/default/token":                  Credentials,
		"/computeMetadata/v1/instance/service-accounts/x@y.iam/identity?audience=z":    Identity,
		"/computeMetadata/v1/instance/attributes/kube-env":                             UserData,
		"/computeMetadata/v1/project/attributes/ssh-keys":                              UserData,
		"/computeMetadata/v1/instance/?recursive=true":                                 UserData,
		"/computeMetadata/v1/?alt=json&Recursive=TRUE":                                 UserData,
		"/computeMetadata/v1/?%zz&recursive=true":                                      UserData,
		"/opc/v2/identity/cert.pem":                                                    Identity,
		"/opc/v2/instance/metadata/user_data":                                          UserData,
		"/openstack/latest/user_data":                                                  UserData,
		"/latest/meta-data/instance-id/../iam/security-credentials/node":               Credentials,
		"/latest/meta-data/iam/%73ecurity-credentials/node":                            Credentials,
		"/computeMetadata/v1/instance/service-accounts/default/../default/token?x=%zz": Credentials,
	}
}

func TestSecretsAreNotThereAndAreCounted(t *testing.T) {
	t.Parallel()
	for _, cloud := range []Cloud{AWS, Azure, GCP} {
		for _, mode := range []Mode{Healthy, HTTP500, Disabled} {
			s, clock := newServer(t, cloud, nil)
			require.NoError(t, s.SetMode(mode))
			base := serve(t, s, "127.0.0.1:0")
			token := awsTokenHeader + ": " + s.tokens.issue("i-1", clock.Now().Add(time.Minute))
			want := map[Class]int{}
			for path, class := range secrets() {
				for _, method := range []string{"GET", "PUT"} {
					got := ask(t, client(t, ""), method, base+path, token, "Metadata: true", "Metadata-Flavor: Google")
					switch mode {
					case Healthy:
						require.Equal(t, 404, got.status, path)
					default:
						require.GreaterOrEqual(t, got.status, 400, path)
					}
					want[class]++
				}
			}
			got := map[Class]int{}
			for _, c := range s.SecretRequests() {
				require.Equal(t, netip.MustParseAddr("127.0.0.1"), c.Client)
				got[c.Class] += c.N
			}
			require.Equal(t, want, got, "%s %s", cloud, mode)
		}
	}
}

func TestWhatIsHarmlessIsCountedApart(t *testing.T) {
	t.Parallel()
	s, _ := newServer(t, AWS, nil)
	base := serve(t, s, "127.0.0.1:0")
	for range 3 {
		ask(t, client(t, "127.0.0.2"), "PUT", base+awsTokenPath)
	}
	for _, path := range []string{
		"/", "/latest/meta-data/instance-id", "/metadata/versions", "/metadata/instance?api-version=2021-02-01",
		"/computeMetadata/v1/instance/id", "/computeMetadata/v1/instance/service-accounts/default/email",
		"/latest/meta-data/iam/info", "/opc/v2/instance/id", "/openstack", "/openstack/latest/meta_data.json?recursive=true",
	} {
		ask(t, client(t, "127.0.0.1"), "GET", base+path)
	}
	require.Empty(t, s.SecretRequests())
	require.Equal(t, []Count{
		{netip.MustParseAddr("127.0.0.1"), Harmless, 10},
		{netip.MustParseAddr("127.0.0.2"), Session, 3},
	}, s.Requests())
}

func FuzzNothingSecretIsEverServed(f *testing.F) {
	for path := range secrets() {
		f.Add(path)
	}
	f.Add("/latest/meta-data/instance-id")
	f.Add("/metadata/instance?api-version=2021-02-01")
	f.Add("/computeMetadata/v1/instance/")
	f.Fuzz(func(t *testing.T, target string) {
		for _, cloud := range []Cloud{AWS, Azure, GCP} {
			s, _ := newServer(t, cloud, func(c *Config) { c.AllowV1 = true })
			request := httptest.NewRequest(http.MethodGet, "/", nil)
			parsed, err := request.URL.Parse(target)
			if err != nil {
				return
			}
			request.URL, request.RemoteAddr = parsed, "127.0.0.1:1"
			request.Header.Set("Metadata", "true")
			request.Header.Set("Metadata-Flavor", "Google")
			w := httptest.NewRecorder()
			s.handle(w, request)
			secret := len(s.SecretRequests()) > 0
			require.False(t, secret && w.Code != http.StatusNotFound, "%s answered %d to %q", cloud, w.Code, target)
			for _, word := range []string{"security-credentials", "user-data", "oauth2/token", "/attributes/"} {
				if strings.Contains(strings.ToLower(parsed.Path), word) && w.Code == http.StatusOK {
					t.Fatalf("%s answered %q to %q", cloud, w.Body, target)
				}
			}
		}
	})
}

func FuzzATokenThatWasNotIssuedIsNone(f *testing.F) {
	s, clock := newServer(f, AWS, nil)
	good := s.tokens.issue("i-1", clock.Now().Add(time.Minute))
	f.Add(good[:55], "60")
	f.Add("AQAAAA==", "21600")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, token, header string) {
		if _, ok := s.tokens.left(token, "i-1", clock.Now()); ok {
			t.Fatalf("token %q holds", token)
		}
		if ttl, ok := parseTokenTTL(header); ok && (ttl < time.Second || ttl > 6*time.Hour) {
			t.Fatalf("TTL %q is %s", header, ttl)
		}
	})
}
