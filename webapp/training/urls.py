from django.urls import path

from webapp.training import views

app_name = "training"

urlpatterns = [
    path("", views.runs, name="runs"),
    path("next/", views.next_step, name="next_step"),
    path("<int:pk>/", views.run, name="run"),
    path("<int:pk>/stop/", views.stop, name="stop"),
    path("<int:pk>/resume/", views.resume, name="resume"),
]
