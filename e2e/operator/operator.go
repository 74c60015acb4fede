// Package operator is an operator as people write them with controller-runtime: a kind in
// two versions with a conversion webhook, defaulting and validating webhooks, a
// reconciler with a finalizer, owned objects and status, leader election. The tests run
// it in their own process against a server. Start reading at New.
package operator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

// Finalizer holds a Widget until the operator has cleaned up behind it.
const Finalizer = Group + "/cleanup"

// Namespace is where the operator lives.
const Namespace = "operators"

// Config of one instance.
type Config struct {
	Rest *rest.Config
	// Listener and Certificate are for the webhooks.
	Listener    net.Listener
	Certificate tls.Certificate
	// Cleaned is told the name of every Widget whose finalizer ran, and by whom.
	Cleaned func(name string)
}

// New makes an instance; Start it.
func New(c Config) (manager.Manager, error) {
	s := runtime.NewScheme()
	if err := scheme.AddToScheme(s); err != nil {
		return nil, err
	}
	addToScheme(s)
	m, err := ctrl.NewManager(c.Rest, ctrl.Options{
		Scheme: s, Metrics: server.Options{BindAddress: "0"},
		WebhookServer:  &listening{webhook.NewServer(webhook.Options{}), c.Listener, c.Certificate},
		LeaderElection: true, LeaderElectionID: "widgets", LeaderElectionNamespace: Namespace, LeaderElectionReleaseOnCancel: true,
		LeaseDuration: new(60 * time.Second), RenewDeadline: new(50 * time.Second), RetryPeriod: new(time.Second),
		Controller: config.Controller{SkipNameValidation: new(true)}, // several instances in one process
	})
	if err != nil {
		return nil, err
	}
	err = builder.WebhookManagedBy(m, &Widget{}).WithDefaulter(defaulter{}).WithValidator(validator{}).Complete()
	if err != nil {
		return nil, err
	}
	return m, builder.ControllerManagedBy(m).For(&Widget{}).Owns(&core.ConfigMap{}).Complete(&reconciler{m.GetClient(), c.Cleaned})
}

// listening is controller-runtime's webhook server on a listener that is there already.
type listening struct {
	webhook.Server
	listener    net.Listener
	certificate tls.Certificate
}

// Start serves until ctx ends.
func (l *listening) Start(ctx context.Context) error {
	s := &http.Server{Handler: l.WebhookMux(), ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	err := s.Serve(tls.NewListener(l.listener, &tls.Config{Certificates: []tls.Certificate{l.certificate}}))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

type defaulter struct{}

// Default gives a Widget without a height one.
func (defaulter) Default(_ context.Context, w *Widget) error {
	if w.Spec.Height == 0 {
		w.Spec.Height = 1
	}
	return nil
}

type validator struct{}

func check(w *Widget) (warnings admission.Warnings, err error) {
	if w.Spec.Width <= 0 {
		return nil, errors.New("a widget has to have a width")
	}
	if w.Spec.Width > 1000 {
		warnings = append(warnings, "that is wide")
	}
	return warnings, nil
}

func (validator) ValidateCreate(_ context.Context, w *Widget) (admission.Warnings, error) {
	return check(w)
}
func (validator) ValidateUpdate(_ context.Context, _, w *Widget) (admission.Warnings, error) {
	return check(w)
}
func (validator) ValidateDelete(_ context.Context, w *Widget) (admission.Warnings, error) {
	if w.Annotations["keep"] != "" {
		return nil, errors.New("this widget is to be kept")
	}
	return nil, nil
}

type reconciler struct {
	client  client.Client
	cleaned func(string)
}

// Reconcile brings a Widget's ConfigMap and status to where they should be, or cleans up.
func (r *reconciler) Reconcile(ctx context.Context, q ctrl.Request) (ctrl.Result, error) {
	w := &Widget{}
	if err := r.client.Get(ctx, q.NamespacedName, w); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !w.DeletionTimestamp.IsZero() {
		if controllerutil.RemoveFinalizer(w, Finalizer) {
			r.cleaned(w.Name)
			return ctrl.Result{}, client.IgnoreNotFound(r.client.Update(ctx, w))
		}
		return ctrl.Result{}, nil
	}
	if controllerutil.AddFinalizer(w, Finalizer) {
		return ctrl.Result{}, r.client.Update(ctx, w)
	}
	area := w.Spec.Width * w.Spec.Height
	cm := &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: w.Name + "-area"}}
	_, err := controllerutil.CreateOrUpdate(ctx, r.client, cm, func() error {
		cm.Data = map[string]string{"area": fmt.Sprint(area)}
		return controllerutil.SetControllerReference(w, cm, r.client.Scheme())
	})
	if err != nil {
		return ctrl.Result{}, err
	}
	w.Status.Area = area
	meta.SetStatusCondition(&w.Status.Conditions, metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue, Reason: "Measured", ObservedGeneration: w.Generation})
	err = r.client.Status().Update(ctx, w)
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: 50 * time.Millisecond}, nil
	}
	return ctrl.Result{}, err
}
