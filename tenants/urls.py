"""The addresses of set-up. What names an org is in the path: the frame in Salesforce glues its own query string on."""

from django.urls import path

from tenants import views

urlpatterns = [
    path("", views.start, name="start"),
    path("new/", views.draft, name="draft"),
    path("new/package", views.draft_package, name="draft_package"),
    path("new/sign-in", views.begin_draft_sign_in, name="begin_draft_sign_in"),
    path("sf/start", views.sf_start, name="sf_start"),
    path("sf/callback", views.sf_callback, name="sf_callback"),
    path("sf/finish", views.sf_finish, name="sf_finish"),
    path("e/<slug:handle>/", views.wizard, name="wizard"),
    path("e/<slug:handle>/sign-in", views.begin_sign_in, name="begin_sign_in"),
    path("e/<slug:handle>/sign-out", views.sign_out, name="sign_out"),
    path("e/<slug:handle>/install", views.begin_install, name="begin_install"),
    path("e/<slug:handle>/package", views.org_package, name="org_package"),
    path("e/<slug:handle>/api-access", views.api_access, name="api_access"),
    path("e/<slug:handle>/doctor", views.doctor_view, name="doctor"),
    path("e/<slug:handle>/setup/<slug:slug>", views.step, name="step"),
]
