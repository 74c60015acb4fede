package reviewer

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	authz "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"

	"orch/api/calls"
	"orch/server/access/condition"
)

// Decision of a webhook.
type Decision int

const (
	NoOpinion Decision = iota
	Allow
	Deny
)

// Subject asks a webhook whether a user may.
type Subject struct {
	cfg        configv1.WebhookConfiguration
	hook       *hook
	conditions []*condition.Program
	seen       memory[answer]
}

type answer struct {
	decision Decision
	reason   string
}

// NewSubject checks the configuration, which is an AuthorizationConfiguration's.
func NewSubject(cfg configv1.WebhookConfiguration, counted *calls.Calls) (*Subject, error) {
	configv1.SetDefaults_WebhookConfiguration(&cfg)
	switch {
	case cfg.Timeout.Duration <= 0 || cfg.Timeout.Duration > 30*time.Second:
		return nil, errors.New("timeout: must be > 0s and <= 30s")
	case cfg.SubjectAccessReviewVersion != "v1":
		return nil, fmt.Errorf("subjectAccessReviewVersion: Unsupported value: %q: supported values: \"v1\"", cfg.SubjectAccessReviewVersion)
	case len(cfg.MatchConditions) > 0 && cfg.MatchConditionSubjectAccessReviewVersion != "v1":
		return nil, fmt.Errorf("matchConditionSubjectAccessReviewVersion: Unsupported value: %q: supported values: \"v1\"", cfg.MatchConditionSubjectAccessReviewVersion)
	case cfg.FailurePolicy != configv1.FailurePolicyNoOpinion && cfg.FailurePolicy != configv1.FailurePolicyDeny:
		return nil, fmt.Errorf("failurePolicy: Unsupported value: %q: supported values: \"Deny\", \"NoOpinion\"", cfg.FailurePolicy)
	case cfg.ConnectionInfo.Type != configv1.AuthorizationWebhookConnectionInfoTypeKubeConfigFile || cfg.ConnectionInfo.KubeConfigFile == nil:
		return nil, errors.New("connectionInfo: type KubeConfigFile with kubeConfigFile is required; a server is in no cluster of its own")
	case len(cfg.MatchConditions) > 64:
		return nil, errors.New("matchConditions: must have at most 64 items")
	}
	s := &Subject{cfg: cfg, seen: memory[answer]{now: time.Now}}
	c := &condition.Compiler{Variable: "request"}
	for i, m := range cfg.MatchConditions {
		s.conditions = append(s.conditions, c.Compile(fmt.Sprintf("matchConditions[%d].expression", i), m.Expression, condition.Bool))
	}
	if err := c.Err(); err != nil {
		return nil, err
	}
	var err error
	s.hook, err = newHook(*cfg.ConnectionInfo.KubeConfigFile, cfg.Timeout.Duration, counted)
	return s, err
}

// Review asks, unless a condition says that the webhook is not concerned.
func (s *Subject) Review(ctx context.Context, spec *authz.SubjectAccessReviewSpec) (Decision, string, error) {
	raw, err := json.Marshal(spec)
	if err != nil {
		return s.failed(), "", err
	}
	if concerned, err := s.concerned(ctx, raw); err != nil {
		return s.failed(), "", err
	} else if !concerned {
		return NoOpinion, "", nil
	}
	id := sha256.Sum256(raw)
	if a, ok := s.seen.get(id); ok {
		return a.decision, a.reason, nil
	}
	in := authz.SubjectAccessReview{TypeMeta: metav1.TypeMeta{APIVersion: "authorization.k8s.io/v1", Kind: "SubjectAccessReview"}, Spec: *spec}
	var out authz.SubjectAccessReview
	if err := s.hook.post(ctx, &in, &out); err != nil {
		return s.failed(), "", err
	}
	a, ttl := answer{NoOpinion, out.Status.Reason}, s.cfg.UnauthorizedTTL.Duration
	switch {
	case out.Status.Allowed && out.Status.Denied:
		return s.failed(), "", errors.New("webhook subject access review returned both allow and deny response")
	case out.Status.Denied:
		a.decision = Deny
	case out.Status.Allowed:
		a.decision, ttl = Allow, s.cfg.AuthorizedTTL.Duration
	}
	if keep := s.keeps(a.decision); keep {
		s.seen.put(id, a, ttl)
	}
	return a.decision, a.reason, nil
}

func (s *Subject) keeps(d Decision) bool {
	if d == Allow {
		return s.cfg.CacheAuthorizedRequests == nil || *s.cfg.CacheAuthorizedRequests
	}
	return s.cfg.CacheUnauthorizedRequests == nil || *s.cfg.CacheUnauthorizedRequests
}

func (s *Subject) failed() Decision {
	if s.cfg.FailurePolicy == configv1.FailurePolicyDeny {
		return Deny
	}
	return NoOpinion
}

// concerned: every condition says yes. One that says no wins over one that fails.
func (s *Subject) concerned(ctx context.Context, raw []byte) (bool, error) {
	if len(s.conditions) == 0 {
		return true, nil
	}
	var v map[string]any
	if err := json.Unmarshal(raw, &v); err != nil {
		return false, err
	}
	var failed error
	for i, c := range s.conditions {
		yes, err := c.True(ctx, v)
		switch {
		case err != nil:
			failed = errors.Join(failed, fmt.Errorf("evaluating match condition %q: %w", s.cfg.MatchConditions[i].Expression, err))
		case !yes:
			return false, nil
		}
	}
	return failed == nil, failed
}
