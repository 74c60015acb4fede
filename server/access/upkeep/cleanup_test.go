package upkeep

import (
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestLastDay(t *testing.T) {
	born := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	at := func(h int) metav1.Time { return metav1.NewTime(born.Add(time.Duration(h) * time.Hour)) }
	is := func(kind certificates.RequestConditionType, h int) certificates.CertificateSigningRequestCondition {
		return certificates.CertificateSigningRequestCondition{Type: kind, LastUpdateTime: at(h)}
	}
	untimed := certificates.CertificateSigningRequestCondition{Type: certificates.CertificateDenied}
	for name, tc := range map[string]struct {
		conditions []certificates.CertificateSigningRequestCondition
		cert       string
		want       int // hours after birth, -1 for never
	}{
		"pending":             {nil, "", 24},
		"denied":              {[]certificates.CertificateSigningRequestCondition{is(certificates.CertificateDenied, 30)}, "", 31},
		"failed":              {[]certificates.CertificateSigningRequestCondition{is(certificates.CertificateApproved, 2), is(certificates.CertificateFailed, 3)}, "", 4},
		"issued":              {[]certificates.CertificateSigningRequestCondition{is(certificates.CertificateApproved, 30)}, "a certificate", 31},
		"approved, unsigned":  {[]certificates.CertificateSigningRequestCondition{is(certificates.CertificateApproved, 10)}, "", 34},
		"denied without time": {[]certificates.CertificateSigningRequestCondition{untimed}, "", -1},
	} {
		r := &csr{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(born)}, Status: certificates.CertificateSigningRequestStatus{Conditions: tc.conditions, Certificate: []byte(tc.cert)}}
		end, ends := lastDay(r)
		if ends != (tc.want >= 0) || ends && !end.Equal(at(tc.want).Time) {
			t.Errorf("%s: %v %t, want %d hours", name, end, ends, tc.want)
		}
	}
}
