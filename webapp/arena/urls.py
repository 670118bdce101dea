"""/vote/ and /leaderboard/."""

from django.urls import path

from webapp.arena import views

app_name = "arena"
urlpatterns = [
    path("vote/", views.vote, name="vote"),
    path("vote/<uuid:pair_id>/", views.cast, name="cast"),
    path("vote/<uuid:pair_id>/undo/", views.undo, name="undo"),
    path("vote/<uuid:pair_id>/reveal/", views.reveal, name="reveal"),
    path("vote/chat/<uuid:message_id>/", views.vote_in_chat, name="vote_in_chat"),
    path("vote/share/<uuid:conversation_id>/", views.share, name="share"),
    path("leaderboard/", views.leaderboard, name="leaderboard"),
]
